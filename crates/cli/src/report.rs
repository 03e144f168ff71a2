use crate::Exit;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

/// What a command prints: text for people, or one JSON object.
pub trait Report: fmt::Display + fmt::Debug + Send {
    /// The object.
    fn to_json(&self) -> Value;

    /// How the command ends: a report whose `ok` is false is no success.
    fn exit(&self) -> Exit {
        match self.to_json().get("ok") {
            Some(Value::Bool(false)) => Exit::NotVerified,
            _ => Exit::Done,
        }
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
