"""PyPI tinyrpc: its MessagePack protocol over a TCP transport, which it does not bring itself."""

import socket

import msgpack
from checks import LARGEST, Refused, address, check
from tinyrpc import RPCClient
from tinyrpc.protocols.msgpackrpc import MSGPACKRPCErrorResponse, MSGPACKRPCProtocol
from tinyrpc.transports import ClientTransport


class Tcp(ClientTransport):
    def __init__(self, to):
        self.socket = socket.create_connection(to, timeout=30)
        self.bytes = b""

    def send_message(self, message, expect_reply=True):
        self.socket.sendall(message)
        return self.receive() if expect_reply else None

    def receive(self):
        while True:
            unpacker = msgpack.Unpacker()
            unpacker.feed(self.bytes)
            try:
                unpacker.skip()
            except msgpack.OutOfData:
                more = self.socket.recv(65536)
                if not more:
                    raise ConnectionError("the node has closed")
                self.bytes += more
                continue
            end = unpacker.tell()
            message, self.bytes = self.bytes[:end], self.bytes[end:]
            return message


class Client:
    name = "tinyrpc"
    largest = LARGEST

    def __init__(self):
        self.protocol = MSGPACKRPCProtocol()
        self.transport = Tcp(address())
        self.client = RPCClient(self.protocol, self.transport)

    def call(self, method, *params):
        request = self.protocol.create_request(method, list(params), None)
        return self.answer(self.transport.send_message(request.serialize()))

    def answer(self, reply):
        reply = self.protocol.parse_reply(reply)
        if isinstance(reply, MSGPACKRPCErrorResponse):
            code = reply._msgpackrpc_error_code
            raise Refused(reply.error if code is None else [code, reply.error])
        return reply.result

    def notify(self, method, *params):
        self.client.call(method, list(params), None, one_way=True)

    def many(self, calls):
        requests = [self.protocol.create_request(method, list(params), None) for method, params in calls]
        for request in requests:
            self.transport.send_message(request.serialize(), expect_reply=False)
        replies = [self.protocol.parse_reply(self.transport.receive()) for _ in requests]
        by_id = {reply.unique_id: reply.result for reply in replies}
        return [by_id[request.unique_id] for request in requests]


check(Client())
