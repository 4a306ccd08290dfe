//! inversion for Rust, in one file: copy it beside your function. Needs serde_json with `arbitrary_precision`; Unix.
//!
//! ```
//! mod shim;
//! use shim::{json, Answer, Context, Service, Value};
//!
//! fn add(ctx: &mut Context, message: Value) -> Answer {
//!     let count = ctx.state.as_ref().map_or(0, |state| state["count"].as_i64().unwrap_or(0)) + 1;
//!     ctx.state = Some(json!({ "count": count }));
//!     Ok(count.into())
//! }
//!
//! fn main() {
//!     Service::new().handler("add", add).as_default().serve() // first in main: then prints go to the log
//! }
//! ```
//!
//! A handler that returns an error, or panics, stores nothing; a `Refused` is the caller's to read, the text of others is
//! for the log. Effects are done when, and only if, the answer is stored.
#![allow(dead_code)]

pub use serde_json::{json, Map, Value};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::{borrow::Cow, fmt, fs::File, process::exit};

/// What a handler returns; `?` takes any error.
pub type Answer = Result<Value, Box<dyn std::error::Error>>;

/// An answer that says no. `status` is 400 to 499, else 500. With `retry` the host runs the message again, a few times,
/// before the caller sees it.
#[derive(Debug, Default)]
pub struct Refused {
    pub code: Cow<'static, str>,
    pub message: String,
    pub status: u16,
    pub details: Option<Value>,
    pub retry: bool,
}

impl Refused {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Refused { code: code.into(), message: message.into(), status, ..Refused::default() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refused {}

/// Who is called, and on which state.
pub struct Context {
    /// `None`: there is none. Change it in place or assign it: what it is in the end is stored, or deleted.
    pub state: Option<Value>,
    /// function, key, handler, version, attempt, now, deadline, seed, trace, meta, reply_to. Take time and chance from `now`
    /// and `seed`: they are the same for all attempts.
    pub call: Map<String, Value>,
    asked: bool,
    effects: Vec<Value>,
}

impl Context {
    /// `None`: a stateless call, which has no state and no effects.
    pub fn key(&self) -> Option<&str> {
        self.call.get("key")?.as_str()
    }

    pub fn handler(&self) -> &str {
        self.call.get("handler").and_then(Value::as_str).unwrap_or("call")
    }

    /// Stores a state even if it is the same as before: it gets a new version.
    pub fn put(&mut self, state: Value) {
        self.state = Some(state);
        self.asked = true;
    }

    /// The same as `ctx.state = None`, and an error where there can be no state, as in a stateless call.
    pub fn delete(&mut self) {
        self.state = None;
        self.asked = true;
    }

    /// Asks for send, cancel, forward, publish, subscribe, unsubscribe or http, with the fields of runtimes/README.md:
    /// `ctx.effect("send", json!({ "handler": "remind", "delay": "24h", "name": "reminder" }))`
    pub fn effect(&mut self, operation: &str, fields: Value) {
        self.effects.push(json!({ operation: fields }));
    }
}

struct Handler {
    name: &'static str,
    run: fn(&mut Context, Value) -> Answer,
    default: bool,
    reads_only: bool,
    declared: Value,
}

/// The handlers of a function.
pub struct Service {
    reading: BufReader<File>,
    writing: File,
    handlers: Vec<Handler>,
    cron: Vec<Value>,
}

impl Service {
    pub fn new() -> Self {
        let (reading, writing) = take_stdio().unwrap_or_else(|problem| gone(problem));
        Service { reading: BufReader::with_capacity(1 << 18, reading), writing, handlers: vec![], cron: vec![] }
    }

    pub fn handler(mut self, name: &'static str, run: fn(&mut Context, Value) -> Answer) -> Self {
        let declared = json!({ "reads_only": false });
        self.handlers.push(Handler { name, run, default: false, reads_only: false, declared });
        self
    }

    fn last(mut self, change: impl FnOnce(&mut Handler)) -> Self {
        change(self.handlers.last_mut().expect("declare a handler first"));
        self
    }

    /// The last handler is also `call`, for callers that name none.
    pub fn as_default(self) -> Self {
        self.last(|handler| handler.default = true)
    }

    /// The last handler promises to change nothing, and is held to it.
    pub fn reads_only(self) -> Self {
        self.last(|handler| {
            handler.reads_only = true;
            handler.declared["reads_only"] = true.into();
        })
    }

    /// The JSON Schemas of the last handler's message and response.
    pub fn schemas(self, input: Value, output: Value) -> Self {
        self.last(|handler| {
            handler.declared["input"] = input;
            handler.declared["output"] = output;
        })
    }

    /// A schedule: `.cron(json!({ "name": "nightly", "schedule": "0 4 * * *" }))`
    pub fn cron(mut self, schedule: Value) -> Self {
        self.cron.push(schedule);
        self
    }

    /// Answers messages until stdin ends.
    pub fn serve(mut self) {
        let mut declared = Map::new();
        for Handler { name, default, declared: one, .. } in &self.handlers {
            declared.insert(name.to_string(), one.clone());
            if *default {
                declared.insert("call".to_string(), one.clone());
            }
        }
        let mut hello = json!({ "protocol": 1, "runtime": "rust", "pipeline": 64, "batch": 64, "integers": 64, "handlers": declared });
        if !self.cron.is_empty() {
            hello["cron"] = self.cron.clone().into();
        }
        self.write(json!({ "hello": hello }));
        let mut line = Vec::new();
        loop {
            line.clear();
            self.reading.read_until(b'\n', &mut line).unwrap_or_else(|problem| gone(problem));
            if line.last() != Some(&b'\n') {
                return; // the end; a last line without its newline is torn: the host died while it wrote
            }
            let frame = serde_json::from_slice(&line).unwrap_or_else(|problem| gone(problem));
            let answer = self.answer(frame);
            self.write(answer);
        }
    }

    fn answer(&self, mut frame: Map<String, Value>) -> Value {
        let call = match frame.remove("ctx") {
            Some(Value::Object(call)) => call,
            _ => Map::new(),
        };
        let (id, mut state) = (frame.remove("id"), frame.remove("state"));
        let Some(Value::Array(messages)) = frame.remove("messages") else {
            return self.run(id, call, frame.remove("message"), &mut state);
        };
        let (mut answers, mut changed) = (Vec::new(), false);
        for mut member in messages {
            let (id, message) = (Some(member["id"].take()), member.get_mut("message").map(Value::take));
            let mut about = call.clone();
            about.extend(member.as_object().cloned().unwrap_or_default());
            let mut answer = self.run(id, about, message, &mut state);
            let fields = answer.as_object_mut().expect("an answer");
            if fields.remove("state").is_some() | fields.remove("delete").is_some() {
                changed = true;
            } else {
                fields.insert("changed".to_string(), false.into());
            }
            answers.push(answer);
        }
        let mut whole = json!({ "id": id, "answers": answers });
        if changed {
            change_field(&mut whole, &state);
        }
        whole
    }

    /// One message on a state, which it leaves as it was if it fails.
    fn run(
        &self,
        id: Option<Value>,
        call: Map<String, Value>,
        message: Option<Value>,
        state: &mut Option<Value>,
    ) -> Value {
        let mut ctx = Context { state: state.clone(), call, asked: false, effects: vec![] };
        let call = AssertUnwindSafe(|| self.call(&mut ctx, message.unwrap_or(Value::Null), state.as_ref()));
        let problem = match catch_unwind(call) {
            Ok(Ok((response, changed))) => {
                let mut answer = json!({ "id": id, "response": response });
                if !ctx.effects.is_empty() {
                    answer["effects"] = ctx.effects.into();
                }
                if changed {
                    *state = ctx.state;
                    change_field(&mut answer, state);
                }
                return answer;
            }
            Ok(Err(problem)) => problem,
            Err(_) => "it panicked".into(), // with what, the panic hook has said
        };
        let error = match problem.downcast_ref::<Refused>() {
            Some(Refused { code, message, status, details, retry }) => {
                let mut error = json!({ "code": code, "message": message, "status": status });
                details.iter().for_each(|details| error["details"] = details.clone());
                if *retry {
                    error["retry"] = true.into();
                }
                error
            }
            None => {
                eprintln!("handler {}: {problem}", ctx.handler());
                let message = format!("an error in handler {}", ctx.handler());
                json!({ "code": "function_error", "message": message, "status": 500 })
            }
        };
        json!({ "id": id, "error": error })
    }

    fn call(
        &self,
        ctx: &mut Context,
        message: Value,
        old: Option<&Value>,
    ) -> Result<(Value, bool), Box<dyn std::error::Error>> {
        let name = ctx.handler();
        let known = self.handlers.iter().find(|each| each.name == name || each.default && name == "call");
        let Some(handler) = known else {
            return Err(Refused::new(404, "no_handler", format!("there is no handler {name}")).into());
        };
        let response = (handler.run)(ctx, message)?;
        let changed = ctx.asked && ctx.state.is_some() || ctx.state.as_ref() != old;
        if changed || ctx.asked || !ctx.effects.is_empty() {
            if handler.reads_only {
                return Err("it is declared reads_only: it changes no state and has no effects".into());
            }
            if ctx.key().is_none() {
                return Err(Refused::new(
                    400,
                    "no_key",
                    "call it with a key: without one there is no state and no effect",
                )
                .into());
            }
        }
        Ok((response, changed))
    }

    /// One write for each frame: an answer that waited for the next message would share its fate.
    fn write(&mut self, frame: Value) {
        self.writing.write_all(format!("{frame}\n").as_bytes()).unwrap_or_else(|problem| gone(problem));
    }
}

fn change_field(answer: &mut Value, state: &Option<Value>) {
    match state {
        Some(state) => answer["state"] = state.clone(),
        None => answer["delete"] = true.into(),
    }
}

/// The host has gone, or is none.
fn gone<T>(problem: impl fmt::Display) -> T {
    eprintln!("shim: {problem}");
    exit(1)
}

/// The protocol moves to private descriptors; prints and child processes get stderr and /dev/null.
fn take_stdio() -> std::io::Result<(File, File)> {
    extern "C" {
        fn dup2(from: i32, to: i32) -> i32;
    }
    // SAFETY: 0 and 1 are the process's own, and stay open: they are pointed elsewhere after `try_clone` has copied them.
    unsafe {
        let own = [0, 1].map(|fd| std::mem::ManuallyDrop::new(File::from_raw_fd(fd)));
        let moved = (own[0].try_clone()?, own[1].try_clone()?);
        dup2(File::open("/dev/null")?.as_raw_fd(), 0);
        dup2(2, 1);
        Ok(moved)
    }
}
