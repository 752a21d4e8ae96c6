"""PyPI msgpack-rpc-python 0.4.1: the old specification's raw type for text and bytes alike."""

import collections
import collections.abc

# Its tornado is of 2017; Python 3.10 moved these names.
for name in ("MutableMapping", "Mapping", "Callable", "Iterable"):
    setattr(collections, name, getattr(collections.abc, name))
import asyncio

if not hasattr(asyncio, "coroutine"):
    asyncio.coroutine = lambda function: function
if not hasattr(asyncio, "async"):
    setattr(asyncio, "async", asyncio.ensure_future)

import msgpackrpc  # noqa: E402
from checks import LARGEST, Refused, address, check  # noqa: E402


def text(value):
    """Its unpacker gives bytes for str and bin alike; what is text becomes str."""
    if isinstance(value, dict):
        return {text(key): (inner if key == b"bytes" else text(inner)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [text(inner) for inner in value]
    return value.decode() if isinstance(value, bytes) else value


class Client:
    name = "msgpack-rpc-python 0.4.1"
    largest = LARGEST

    def __init__(self):
        self.client = msgpackrpc.Client(msgpackrpc.Address(*address()), timeout=30)

    def call(self, method, *params):
        return self.answer(self.client.call_async(method, *params))

    def answer(self, future):
        try:
            return text(future.get())
        except msgpackrpc.error.RPCError as error:
            raise Refused(text(error.args[0])) from None

    def notify(self, method, *params):
        self.client.notify(method, *params)

    def many(self, calls):
        futures = [self.client.call_async(method, *params) for method, params in calls]
        return [self.answer(future) for future in futures]


check(Client())
