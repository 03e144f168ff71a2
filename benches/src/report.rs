use crate::samples::Samples;
use serde_json::{Value, json};

/// What was measured: printed as it comes, or as one JSON object at the end.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    conditions: Value,
    part: String,
    results: Vec<Value>,
    notes: Vec<String>,
}

impl Report {
    /// Begins with the conditions: pairs of a name and what it is.
    pub(crate) fn new(json: bool, conditions: &[(&'static str, String)]) -> Self {
        let report = Self {
            json,
            conditions: conditions
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            part: String::new(),
            results: Vec::new(),
            notes: Vec::new(),
        };
        for (name, value) in conditions {
            report.say(&format!("{name:<14}{value}"));
        }
        report
    }

    /// Begins a part.
    pub(crate) fn begin(&mut self, part: &str, what: &str) {
        part.clone_into(&mut self.part);
        self.say(&format!("\n{part}: {what}"));
    }

    /// The median of several runs, and between which values they lie.
    pub(crate) fn median(&mut self, name: &str, unit: &str, samples: &Samples) {
        let (median, min, max) = (samples.median(), samples.min(), samples.max());
        let (runs, digits) = (samples.len(), digits(median));
        self.say(&format!(
            "  {name:<48}{median:>10.digits$} {unit:<6} ({min:.digits$} to {max:.digits$}, {runs} runs)"
        ));
        self.results.push(json!({
            "part": self.part, "name": name, "unit": unit,
            "median": median, "min": min, "max": max, "runs": runs,
        }));
    }

    /// Half of several calls take no longer than p50, nearly all no longer than p99.
    pub(crate) fn latency(&mut self, name: &str, ms: &Samples) {
        let (p50, p99, calls) = (ms.percentile(50), ms.percentile(99), ms.len());
        self.say(&format!(
            "  {name:<48}{p50:>10.1} ms     (p99 {p99:.1}, {calls} calls)"
        ));
        self.results.push(json!({
            "part": self.part, "name": name, "unit": "ms",
            "p50": p50, "p99": p99, "calls": calls,
        }));
    }

    /// A single figure, such as a ratio.
    pub(crate) fn figure(&mut self, name: &str, unit: &str, value: f64) {
        let digits = digits(value);
        self.say(&format!("  {name:<48}{value:>10.digits$} {unit}"));
        self.results.push(json!({
            "part": self.part, "name": name, "unit": unit, "value": value,
        }));
    }

    /// One row of a comparison: ours, the peer's, and ours as a multiple of the peer's.
    pub(crate) fn beside(&mut self, name: &str, unit: &str, ours: f64, peer: f64) {
        let (digits, ratio) = (digits(ours.min(peer)), ours / peer);
        self.say(&format!(
            "  {name:<60}{ours:>10.digits$}{peer:>10.digits$} {unit:<6}{ratio:>8.2}"
        ));
        self.results.push(json!({
            "part": self.part, "name": name, "unit": unit,
            "ours": ours, "peer": peer, "ratio": ratio,
        }));
    }

    /// Something to know beside the figures.
    pub(crate) fn note(&mut self, text: &str) {
        self.say(&format!("  {text}"));
        self.notes.push(format!("{}: {text}", self.part));
    }

    /// Ends the report.
    pub(crate) fn finish(self) {
        if self.json {
            let (conditions, results, notes) = (self.conditions, self.results, self.notes);
            println!(
                "{}",
                json!({ "conditions": conditions, "results": results, "notes": notes })
            );
        }
    }

    fn say(&self, line: &str) {
        if !self.json {
            println!("{line}");
        }
    }
}

/// Digits behind the point that say something.
fn digits(value: f64) -> usize {
    match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    }
}
