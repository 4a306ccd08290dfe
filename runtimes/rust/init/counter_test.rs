//! A function is a program that answers lines: give it some. `cargo test`
use serde_json::{json, Value};
use std::io::Write;
use std::process::{Command, Stdio};

/// What the program answers to these messages, without its hello.
fn answers(messages: &[Value]) -> Vec<Value> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_counter"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    for message in messages {
        writeln!(input, "{message}").unwrap();
    }
    drop(input);
    let output = program.wait_with_output().unwrap().stdout;
    let lines = String::from_utf8(output).unwrap();
    let frames = lines.lines().map(|line| serde_json::from_str(line).unwrap());
    frames.filter(|frame: &Value| frame.get("hello").is_none()).collect()
}

#[test]
fn each_call_adds_to_the_state() {
    let ctx = json!({"handler": "add", "key": "k"});
    let found = answers(&[
        json!({"id": "1", "ctx": ctx, "message": 2}),
        json!({"id": "2", "ctx": ctx, "message": null, "state": {"count": 2}}),
    ]);
    assert_eq!(found[0], json!({"id": "1", "response": 2, "state": {"count": 2}}));
    assert_eq!(found[1], json!({"id": "2", "response": 3, "state": {"count": 3}}));
}

#[test]
fn half_is_refused_and_changes_nothing() {
    let ctx = json!({"handler": "add", "key": "k"});
    let found = answers(&[json!({"id": "1", "ctx": ctx, "message": 0.5, "state": {"count": 3}})]);
    assert_eq!(found[0]["error"]["status"], 422);
    assert_eq!(found[0].get("state"), None);
}
