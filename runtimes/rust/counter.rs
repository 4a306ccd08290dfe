//! A counter: the smallest function with a state. `cargo build --release && inversion dev target/release/counter`
mod shim;
use shim::{json, Answer, Context, Refused, Service, Value};

fn count(ctx: &Context) -> i64 {
    ctx.state.as_ref().and_then(|state| state["count"].as_i64()).unwrap_or(0)
}

fn add(ctx: &mut Context, message: Value) -> Answer {
    let amount = if message.is_null() { Some(1) } else { message.as_i64() };
    let count = amount
        .and_then(|amount| count(ctx).checked_add(amount))
        .ok_or_else(|| Refused::new(422, "bad_amount", "add takes a whole number"))?;
    ctx.put(json!({ "count": count }));
    Ok(count.into())
}

fn get(ctx: &mut Context, _: Value) -> Answer {
    Ok(count(ctx).into())
}

fn reset(ctx: &mut Context, _: Value) -> Answer {
    ctx.delete();
    Ok(0.into())
}

fn main() {
    Service::new().handler("add", add).as_default().handler("get", get).reads_only().handler("reset", reset).serve();
}
