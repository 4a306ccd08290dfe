//! A shopping cart. `cargo build --release && inversion dev target/release/cart`
mod shim;
use shim::{json, Answer, Context, Refused, Service, Value};

const MAX_PER_ITEM: i64 = 100; // more than a household buys: the shop says "out of stock" before it is

/// The items, to change in place: an absent cart is an empty one.
fn items(state: &mut Option<Value>) -> &mut Vec<Value> {
    let cart = state.get_or_insert_with(|| json!({ "items": [] }));
    cart["items"].as_array_mut().expect("a cart has items")
}

fn sku_of(message: &Value) -> Result<&str, Refused> {
    match message.get("sku").and_then(Value::as_str) {
        None | Some("") => Err(Refused::new(422, "bad_sku", r#"the message is {"sku": "...", "qty": 1}"#)),
        Some(sku) => Ok(sku),
    }
}

fn add(ctx: &mut Context, message: Value) -> Answer {
    let sku = sku_of(&message)?;
    let qty = match message.get("qty") {
        None | Some(Value::Null) => Some(1),
        Some(qty) => qty.as_i64(),
    };
    let Some(qty @ 1..) = qty else {
        return Err(Refused::new(422, "bad_quantity", "qty is a whole number, at least 1").into());
    };
    let items = items(&mut ctx.state);
    let index = items.iter().position(|item| item["sku"] == sku);
    let held = index.and_then(|index| items[index]["qty"].as_i64()).unwrap_or(0);
    let left = MAX_PER_ITEM - held;
    if qty > left {
        let details = Some(json!({ "sku": sku, "left": left }));
        return Err(Refused { details, ..Refused::new(409, "out_of_stock", format!("not enough {sku} left")) }.into());
    }
    match index {
        Some(index) => items[index]["qty"] = (held + qty).into(),
        None => items.push(json!({ "sku": sku, "qty": qty })),
    }
    Ok(json!({ "items": items.len() }))
}

fn remove(ctx: &mut Context, message: Value) -> Answer {
    let sku = sku_of(&message)?;
    let items = items(&mut ctx.state);
    let Some(index) = items.iter().position(|item| item["sku"] == sku) else {
        return Err(Refused::new(404, "not_in_cart", format!("there is no {sku} in the cart")).into());
    };
    items.remove(index);
    Ok(json!({ "items": items.len() }))
}

fn show(ctx: &mut Context, _: Value) -> Answer {
    Ok(ctx.state.clone().unwrap_or_else(|| json!({ "items": [] })))
}

fn checkout(ctx: &mut Context, _: Value) -> Answer {
    let items = match ctx.state.take() {
        Some(mut cart) => cart["items"].take(),
        None => json!([]),
    };
    if items == json!([]) {
        return Err(Refused::new(409, "cart_empty", "there is nothing to check out").into());
    }
    Ok(json!({ "ordered": items })) // and the state is None: deleted
}

fn main() {
    Service::new()
        .handler("add", add)
        .handler("remove", remove)
        .handler("show", show)
        .as_default()
        .reads_only()
        .handler("checkout", checkout)
        .serve();
}
