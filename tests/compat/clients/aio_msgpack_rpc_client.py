"""PyPI aio-msgpack-rpc: asyncio streams, bin for bytes."""

import asyncio

import aio_msgpack_rpc
from aio_msgpack_rpc.error import RPCResponseError
from checks import LARGEST, Refused, address, check


class Client:
    name = "aio-msgpack-rpc"
    largest = LARGEST

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        streams = self.loop.run_until_complete(asyncio.open_connection(*address()))
        self.client = aio_msgpack_rpc.Client(*streams, loop=self.loop)

    def call(self, method, *params):
        try:
            return self.loop.run_until_complete(self.client.call(method, *params, timeout=30))
        except RPCResponseError as error:
            raise Refused(error.args[0]) from None

    def notify(self, method, *params):
        self.loop.run_until_complete(self.client.notify(method, *params))

    def close(self):
        self.client.close()
        self.loop.run_until_complete(asyncio.sleep(0))

    def many(self, calls):
        async def all_of_them():
            return await asyncio.gather(*(self.client.call(method, *params) for method, params in calls))

        return self.loop.run_until_complete(all_of_them())


check(Client())
