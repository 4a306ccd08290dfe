//! The interpreter of the conformance kit (runtimes/conformance/interpreter.md): the message says what to do.
mod shim;
use shim::{json, Answer, Context, Refused, Service, Value};
use std::{process::exit, thread::sleep, time::Duration};

fn interpret(ctx: &mut Context, message: Value) -> Answer {
    let mut response = Value::Null;
    for command in message.as_array().ok_or("the message is a list of commands")? {
        for (name, argument) in command.as_object().ok_or("a command is an object")? {
            run(ctx, name, argument, &mut response)?;
        }
    }
    Ok(response)
}

fn run(ctx: &mut Context, name: &str, argument: &Value, response: &mut Value) -> Answer {
    let text = argument.as_str().unwrap_or_default();
    match name {
        "put" => ctx.put(argument.clone()),
        "delete" => ctx.delete(),
        "set" => {
            let state = ctx.state.as_mut().and_then(Value::as_object_mut).ok_or("the state is no object")?;
            state.extend(argument.as_object().cloned().unwrap_or_default());
        }
        "add" => {
            let sum = whole(ctx.state.as_ref().unwrap_or(&json!(0)))? + whole(argument)?;
            let sum: Value = serde_json::from_str(&sum.to_string())?;
            ctx.put(sum.clone());
            *response = sum;
        }
        "reply" => *response = argument.clone(),
        "reply_state" => {
            *response = match &ctx.state {
                Some(state) => json!({ "state": state }),
                None => json!({}),
            }
        }
        "reply_ctx" => *response = ctx.call.get(text).cloned().unwrap_or_default(),
        "effect" => {
            for (operation, fields) in argument.as_object().ok_or("an effect is an object")? {
                ctx.effect(operation, fields.clone());
            }
        }
        "fail" => {
            let field = |name: &str, default| argument[name].as_str().unwrap_or(default).to_string();
            return Err(Refused {
                code: field("code", "failed").into(),
                message: field("message", ""),
                status: argument["status"].as_u64().unwrap_or(500) as u16,
                details: argument.get("details").cloned(),
                retry: argument["retry"] == true,
            }
            .into());
        }
        "throw" => panic!("{text}"),
        "unwritable" => return Err("whatever a Value holds can be written".into()),
        "print" => println!("{text}"),
        "log" => eprintln!("{text}"),
        "sleep" => sleep(Duration::from_millis(argument.as_u64().unwrap_or(0))),
        "exit" => exit(argument.as_i64().unwrap_or(0) as i32),
        _ => return Err(format!("the interpreter has no command {name}").into()),
    }
    Ok(Value::Null)
}

/// Wide enough for all that 64 bits hold, signed or not.
fn whole(value: &Value) -> Result<i128, Box<dyn std::error::Error>> {
    Ok(value.to_string().parse()?)
}

fn main() {
    Service::new().handler("run", interpret).as_default().handler("look", interpret).reads_only().serve();
}
