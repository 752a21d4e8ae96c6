"""What every client has to get right. A client is an object with call, notify, many and name."""

import sys
import time


class Refused(Exception):
    """The error of a call: [code, message] or [code, message, details]."""

    def __init__(self, error):
        super().__init__(error)
        self.code, self.message = error[0], error[1]
        self.details = error[2] if len(error) > 2 else {}


def check(client):
    call = lambda method, *params: client.call("demo.kinds." + method, *params)
    order = {"id": 7, "lines": [{"name": "tea", "quantity": 2}, {"name": "pot", "quantity": 1}], "note": "soon"}
    receipt = {"order": order, "pieces": 3}

    def same(got, expected):
        if got != expected:
            raise AssertionError(f"got {got!r}, expected {expected!r}")

    def refused(code, text, method, *params):
        try:
            got = client.call(method, *params)
        except Refused as error:
            if error.code != code or text not in error.message:
                raise AssertionError(f"got {error}, expected code {code} and `{text}`")
            return error
        raise AssertionError(f"{method} answered {got!r}, expected an error")

    def unary():
        same(call("reverse", "Grüße"), "eßürG")
        same(call("reverse", ""), "")
        large = client.largest
        same(call("numbers", -128, large, 1.5), {"small": -128, "large": large, "ratio": 3.0})
        same(call("numbers", 127, 0, 2), {"small": 127, "large": 0, "ratio": 4.0})
        same(call("not", True), False)
        same(call("maybe", "x"), "x")
        same(call("maybe", None), None)
        same(call("maybe"), None)
        same(call("sorted", [3, -40000, 70000, -1]), [-40000, -1, 3, 70000])
        same(call("sorted", []), [])
        same(call("doubled", {"a": 1, "b": -2}), {"a": 2, "b": -4})
        same(call("inverted", b"\x00\xff\x80a"), {"bytes": b"\xff\x00\x7f\x9e"})
        same(call("place_order", order), receipt)

    def by_name():
        same(call("place_order", {"order": order}), receipt)
        same(call("numbers", {"ratio": 1.0, "large": 2, "small": 3}), {"small": 3, "large": 2, "ratio": 2.0})
        same(client.call("demo.kinds/PlaceOrder", order), receipt)

    def errors():
        error = refused(5, "", "demo.kinds.find", 9)
        same(error.details.get("type"), "NoSuch")
        same(error.details.get("data"), {"NoSuch": {"id": 9}})
        refused(12, "did you mean `reverse`", "demo.kinds.revers", "x")
        refused(3, "takes 1 parameter (text), got 2", "demo.kinds.reverse", "x", "y")
        refused(3, "parameter `text` is missing", "demo.kinds.reverse")
        refused(3, "large: expected u64, got str", "demo.kinds.numbers", 1, "x", 1.0)

    def notify():
        before = call("touched")
        client.notify("demo.kinds.touch", 3)
        client.notify("demo.kinds.reverse", "nobody hears it")
        client.notify("demo.kinds.touch", 4)
        until = time.monotonic() + 10
        while call("touched") != before + 7:
            if time.monotonic() > until:
                raise AssertionError(f"touched is {call('touched')}, expected {before + 7}")

    def many():
        texts = [f"text number {n}" for n in range(500)]
        answers = client.many([("demo.kinds.reverse", (text,)) for text in texts])
        same(answers, [text[::-1] for text in texts])

    def tells():
        if "demo.kinds.place_order" not in client.call("rpc.list"):
            raise AssertionError("rpc.list lacks demo.kinds.place_order")
        same(client.call("rpc.describe", "demo.kinds.numbers")["params"], ["small", "large", "ratio"])
        same(client.call("rpc.health", "demo.kinds")["status"], "serving")

    def streams():
        # More than one window of credits: items stop until more are granted.
        stream = call("count", 1000)
        for n in range(1000):
            same(client.told(), ["rpc.item", [stream, n, n]])
            if n % 100 == 0:
                client.notify("rpc.credit", stream, 100)
        same(client.told(), ["rpc.end", [stream, None, None]])
        stream = call("sum")
        for n in range(100):
            client.notify("rpc.item", stream, n, n)
        client.notify("rpc.end", stream)
        same(client.told(), ["rpc.end", [stream, None, 4950]])
        # A stream that is cancelled says nothing more; what was on its way may still come.
        stream = call("count", 1 << 40)
        same(client.told(), ["rpc.item", [stream, 0, 0]])
        client.notify("rpc.cancel", stream)
        same(client.call("rpc.health", "demo.kinds")["status"], "serving")

    failed = False
    tests = [unary, by_name, errors, notify, many, tells]
    # Most clients have no way to be told something.
    if hasattr(client, "told"):
        tests.append(streams)
    for test in tests:
        begun = time.monotonic()
        try:
            test()
            result = "ok"
        except Exception as error:  # all of them are results of the table
            result, failed = f"FAILED {type(error).__name__}: {error}", True
        took = (time.monotonic() - begun) * 1000
        print(f"{client.name:<26} {test.__name__:<8} {took:7.1f} ms  {result}", flush=True)
    getattr(client, "close", lambda: None)()
    sys.exit(failed)


# A client keeps its largest integer to itself where its language has no larger one.
LARGEST = 2**64 - 1


def address():
    host, _, port = sys.argv[1].rpartition(":")
    return host, int(port)
