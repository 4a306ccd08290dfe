"""Entities that talk: accounts, players, a crowd and clocks. `wrong` in a state is what must never happen."""

import time
from datetime import datetime

from shim import Refused, handler, serve

OPENING = 1_000
#: From here on it takes a while to count: a lease is renewed meanwhile.
LARGE = 190
#: Every so many messages to everybody are heard at the second try only.
DEAF = 5
#: An account takes no amount that is a multiple of this: it goes back.
REFUSED = 7


@handler
def pay(ctx, message):
    """The amount leaves; it is under way until it is taken or has come back."""
    state, amount = account(ctx), message["amount"]
    if state["balance"] < amount:
        return False
    ctx.state = {**state, "balance": state["balance"] - amount, "paid": state["paid"] + 1}
    asked = {"amount": amount}
    ctx.send(key=message["to"], handler="take", message=asked, reply_to="told", delay=message.get("delay"))
    return True


@handler
def take(ctx, message):
    state, amount = account(ctx), message["amount"]
    if amount >= LARGE:
        time.sleep(0.3)
    if amount % REFUSED == 0:
        raise Refused("closed", str(amount), status=409)
    ctx.state = {**state, "balance": state["balance"] + amount, "taken": state["taken"] + 1}
    return amount


@handler
def told(ctx, answer):
    """What came of a payment."""
    state = account(ctx)
    back = int(answer["error"]["message"]) if "error" in answer else 0
    wrong = state["wrong"] if ctx.reply_to else [*state["wrong"], "an answer to nothing"]
    ctx.state = {**state, "balance": state["balance"] + back, "told": state["told"] + 1, "wrong": wrong}


@handler
def misdirect(ctx, message):
    """To a handler that there is not: it hears of that, and there is a dead letter if the node saw it."""
    state = account(ctx)
    ctx.state = {**state, "lost": state["lost"] + 1}
    ctx.send(key=message["to"], handler="nobody", message=1, reply_to="unheard")


@handler
def unheard(ctx, answer):
    state, error = account(ctx), answer.get("error", {})
    wrong = state["wrong"]
    if error.get("code") != "no_handler":
        wrong = [*wrong, f"nobody has answered {answer}"]
    seen_by = "unheard" if " has no handler " in error.get("message", "") else "unknown"
    ctx.state = {**state, seen_by: state[seen_by] + 1, "wrong": wrong}


@handler
def hop(ctx, message):
    """A ball goes to and fro; each hop says how many are left."""
    state, left = ctx.state or {"left": None, "hops": 0, "wrong": []}, message["left"]
    wrong = state["wrong"]
    if state["left"] is not None and left != state["left"] - 2:
        wrong = [*wrong, f"{left} after {state['left']}"]
    ctx.state = {"left": left, "hops": state["hops"] + 1, "wrong": wrong}
    if left:
        ctx.send(key=message["to"], handler="hop", message={"left": left - 1, "to": ctx.key})


@handler
def join(ctx, message):
    ctx.subscribe(message["topic"], message.get("handler", "hear"))


@handler(reads_only=True)
def nap(_ctx, nap_s):
    time.sleep(nap_s)


@handler
def arm(ctx, message):
    ctx.send(key=message["to"], handler="alarm", message={}, name="alarm", delay="1ms")


@handler
def alarm(ctx, _message):
    """It may have been cancelled too late."""
    state = napper(ctx)
    ctx.state = {**state, "alarms": state["alarms"] + 1}


@handler
def tell(ctx, message):
    """What is published stands before what is sent, and comes later."""
    ctx.state = {"told": (ctx.state or {"told": 0})["told"] + 1}
    ctx.cancel("alarm")
    ctx.publish(ctx.key, {"by": "paper"})
    ctx.send(key=message["to"], handler="awake", message={"by": "direct"})


@handler
def awake(ctx, message):
    state = napper(ctx)
    ctx.state = {**state, message["by"]: state[message["by"]] + 1}


@handler
def spread(ctx, message):
    """The next numbers, to everybody; of who has a topic as a publication."""
    sent = (ctx.state or {"sent": 0})["sent"]
    ctx.state = {"sent": sent + message["numbers"]}
    for next_ in range(sent + 1, sent + 1 + message["numbers"]):
        if "topic" in message:
            ctx.publish(message["topic"], {"of": ctx.key, "number": next_})
            continue
        for place in range(message["to"]):
            ctx.send(key=f"crowd-{place}", handler="hear", message={"of": ctx.key, "number": next_})


@handler
def hear(ctx, message):
    state, number = ctx.state or {"heard": {}, "wrong": []}, message["number"]
    if number % DEAF == 0 and ctx.attempt == 1:
        raise Refused("deaf", "once more", retry=True)
    before, wrong = state["heard"].get(message["of"], 0), state["wrong"]
    if number != before + 1:
        wrong = [*wrong, f"{number} of {message['of']} after {before}"]
    ctx.state = {"heard": {**state["heard"], message["of"]: number}, "wrong": wrong}


@handler
def poke(ctx, _message):
    state = mailbox(ctx)
    ctx.state = {**state, "poked": state["poked"] + 1}
    return state["poked"] + 1


@handler
def never(ctx, _message):
    ctx.state = {**mailbox(ctx), "wrong": ["what was withdrawn has come"]}


@handler
def ask(ctx, message):
    """Hands the question on."""
    state = mailbox(ctx)
    ctx.state = {**state, "asked": state["asked"] + 1}
    ctx.forward(key=message["counter"], handler="number")


@handler
def number(ctx, _message):
    """Another one for each."""
    ctx.state = {"numbers": (ctx.state or {"numbers": 0})["numbers"] + 1}
    return ctx.state["numbers"]


@handler
def order(ctx, message):
    state = buyer(ctx)
    ctx.state = {**state, "ordered": state["ordered"] + 1}
    ctx.http(message["url"], {"token": message["token"]}, reply_to="answered")
    if message["refused"]:
        raise Refused("thought_better", "not committed", status=422)


@handler
def answered(ctx, _answer):
    state = buyer(ctx)
    ctx.state = {**state, "answered": state["answered"] + 1}


@handler
def strike(ctx, _message):
    """A schedule of every minute: each once, in its order."""
    scheduled = datetime.fromisoformat(ctx.meta["scheduled"].replace("Z", "+00:00"))
    minute = int(scheduled.timestamp()) // 60
    state = ctx.state or {"first": minute, "last": minute - 1, "wrong": []}
    wrong = state["wrong"]
    if minute != state["last"] + 1:
        wrong = [*wrong, f"{minute} has struck after {state['last']}"]
    ctx.state = {**state, "last": minute, "wrong": wrong}


@handler
def wind(ctx, message):
    """Sets the timer of that name, or sets it anew; `bell` is who hears it."""
    state, name, token = clock(ctx), message["name"], message["token"]
    ctx.state = {**state, "wound": {**state["wound"], name: token}}
    at, delay = message.get("at"), message.get("delay")
    asked = {"name": name, "token": token, "of": ctx.key, "delay": delay}
    ctx.send(key=message["bell"], handler="ring", message=asked, name=name, at=at, delay=delay)


@handler
def unwind(ctx, message):
    state = clock(ctx)
    wound = {name: token for name, token in state["wound"].items() if name != message["name"]}
    ctx.state = {**state, "wound": wound}
    ctx.cancel(message["name"])


@handler
def ring(ctx, message):
    state, name, token = clock(ctx), message["name"], message["token"]
    wound, wrong = state["wound"], state["wrong"]
    if token in state["rung"]:
        wrong = [*wrong, f"{token} again"]
    if message["of"] == ctx.key:  # of its own: it knows what is wound
        if wound.get(name) != token:
            wrong = [*wrong, f"{token}, and {name} was {wound.get(name)}"]
        wound = {other: its for other, its in wound.items() if other != name}
    ctx.state = {**state, "wound": wound, "rung": [*state["rung"], token], "wrong": wrong}


@handler
def tick(ctx, message):
    """Winds itself again, so often."""
    state, left = clock(ctx), message["left"]
    wrong = state["wrong"]
    if state["ticks"] is not None and left != state["ticks"] - 1:
        wrong = [*wrong, f"tick {left} after {state['ticks']}"]
    ctx.state = {**state, "ticks": left, "wrong": wrong}
    if left:
        asked = {"left": left - 1}
        ctx.send(handler="tick", message=asked, name="tick", delay=f"{1 + left * 7 % 20}ms")


def account(ctx):
    counts = dict.fromkeys(("paid", "taken", "told", "lost", "unheard", "unknown"), 0)
    return ctx.state or {"balance": OPENING, **counts, "wrong": []}


def mailbox(ctx):
    return ctx.state or {"poked": 0, "asked": 0, "wrong": []}


def buyer(ctx):
    return ctx.state or {"ordered": 0, "answered": 0}


def napper(ctx):
    return ctx.state or {"direct": 0, "paper": 0, "alarms": 0}


def clock(ctx):
    return ctx.state or {"wound": {}, "rung": [], "ticks": None, "wrong": []}


if __name__ == "__main__":
    serve()
