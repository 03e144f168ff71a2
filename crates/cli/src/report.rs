use crate::Exit;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

/// What a command prints: text for people, or one JSON object.
pub trait Report: fmt::Display + fmt::Debug + Send {
    /// The object.
    fn to_json(&self) -> Value;

    /// How the command ends: a report whose `ok` is false is no success, and its `code` says which.
    fn exit(&self) -> Exit {
        let report = self.to_json();
        if report.get("ok") != Some(&Value::Bool(false)) {
            return Exit::Done;
        }
        let code = report.get("code").and_then(Value::as_str);
        code.and_then(Exit::named).unwrap_or(Exit::NotVerified)
    }
}

impl<T: Serialize + fmt::Display + fmt::Debug + Send> Report for T {
    fn to_json(&self) -> Value {
        let mut object = Map::from_iter([("ok".to_owned(), Value::Bool(true))]);
        if let Ok(Value::Object(fields)) = serde_json::to_value(self) {
            object.extend(fields);
        }
        Value::Object(object)
    }
}
