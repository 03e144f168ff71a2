use crate::{
    Exit, Home,
    lines::Lines,
    log_access::{LogAccess, LogServer, LogSource, Met},
    signals,
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, time::Duration};

/// What a monitor saw.
#[derive(Clone, Debug, Serialize)]
pub struct Monitored {
    /// Looks at all servers.
    pub looks: u64,
    /// Leaves under the newest checkpoint.
    pub tree_size: u64,
}

/// What a server shows, when it is something new.
#[derive(Clone, Debug, Serialize)]
pub struct ServerRow {
    /// Whether it answers with a checkpoint that satisfies the policy and extends all before it.
    pub ok: bool,
    /// The server.
    pub server: String,
    /// Leaves under its checkpoint.
    pub tree_size: Option<u64>,
    /// The root.
    pub root: Option<String>,
    /// Why it shows nothing.
    pub problem: Option<String>,
}

/// Looks at what every server shows, again and again until interrupted, or once without `every`. Each checkpoint
/// must satisfy the policy, extend what was ever shown here, and be no smaller than what the same server showed
/// before.
///
/// # Errors
///
/// When one does not: both checkpoints are then kept as evidence. A server that does not answer is only an
/// error when none does and nothing is looked at again.
pub(crate) async fn monitor(
    home: &Home,
    source: &LogSource,
    every: Option<Duration>,
    lines: &mut Lines<'_>,
) -> Result<Monitored> {
    let mut monitor = Monitor {
        access: LogAccess::open(home, source)?,
        told: BTreeMap::new(),
        looks: 0,
        newest: 0,
        lines,
    };
    let Some(every) = every else {
        let unavailable = monitor.look().await?;
        return match unavailable {
            Some(error) => Err(error),
            None => Ok(monitor.report()),
        };
    };
    let interrupted = signals::interrupted()?;
    tokio::select! {
        () = interrupted => Ok(()),
        alarm = monitor.go_on(every) => alarm,
    }?;
    Ok(monitor.report())
}

struct Monitor<'a, 'l> {
    access: LogAccess,
    /// What was printed last of each server.
    told: BTreeMap<String, String>,
    looks: u64,
    newest: u64,
    lines: &'a mut Lines<'l>,
}

impl Monitor<'_, '_> {
    async fn go_on(&mut self, every: Duration) -> Result<()> {
        loop {
            self.look().await?;
            tokio::time::sleep(every).await;
        }
    }

    /// Looks at every server. Gives why the last one does not answer, when none does.
    async fn look(&mut self) -> Result<Option<anyhow::Error>> {
        self.looks += 1;
        let (mut answered, mut failure) = (false, None);
        let mut rows = Vec::new();
        for server in &self.access.servers {
            match check(&self.access, server).await {
                Ok(met) => {
                    answered = true;
                    self.newest = self.newest.max(met.checked.checkpoint.size);
                    rows.push(ServerRow::showing(server, &met));
                }
                Err(error) if Exit::of(&error) == Exit::NotVerified => return Err(error),
                Err(error) => {
                    rows.push(ServerRow::silent(server, &error));
                    failure = Some(error);
                }
            }
        }
        for row in rows {
            let text = row.to_string();
            if self.told.get(&row.server) != Some(&text) {
                self.lines.print(&row)?;
                self.told.insert(row.server, text);
            }
        }
        Ok(failure.filter(|_| !answered))
    }

    fn report(&self) -> Monitored {
        Monitored {
            looks: self.looks,
            tree_size: self.newest,
        }
    }
}

async fn check(access: &LogAccess, server: &LogServer) -> Result<Met> {
    let note = server.reader.checkpoint().await;
    let note = note.with_context(|| format!("read the checkpoint of `{}`", server.name))?;
    let shown = access.check(server, &note)?.1;
    let known = access.known(&shown.checkpoint.origin)?;
    let url = server.reader.url("");
    // First, because a server that went back cannot prove anything about what it showed before.
    if let Some(before) = known.served(&url)?
        && shown.checkpoint.size < before.checkpoint.size
    {
        let why = format!("`{}` went back", server.name);
        return Err(known.alarm(&before, &shown, &why));
    }
    let met = access.meet(server, &note).await?;
    known.set_served(&url, &shown)?;
    Ok(met)
}

impl ServerRow {
    fn showing(server: &LogServer, met: &Met) -> Self {
        let checkpoint = &met.checked.checkpoint;
        Self {
            ok: true,
            server: server.name.clone(),
            tree_size: Some(checkpoint.size),
            root: Some(checkpoint.root.to_string()),
            problem: None,
        }
    }

    fn silent(server: &LogServer, error: &anyhow::Error) -> Self {
        Self {
            ok: false,
            server: server.name.clone(),
            tree_size: None,
            root: None,
            problem: Some(format!("{error:#}")),
        }
    }
}

impl fmt::Display for ServerRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.tree_size, &self.root, &self.problem) {
            (Some(size), Some(root), _) => {
                write!(f, "{}  {size} leaves, root {root}", self.server)
            }
            (_, _, problem) => {
                let problem = problem.as_deref().unwrap_or("shows nothing");
                write!(f, "{}  {problem}", self.server)
            }
        }
    }
}

impl fmt::Display for Monitored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (looks, size) = (self.looks, self.tree_size);
        write!(f, "consistent after {looks} looks, up to {size} leaves")
    }
}
