"""PyPI pynvim's session over TCP: the client of an editor, which may name methods in bytes."""

from checks import LARGEST, Refused, address, check
from pynvim.msgpack_rpc import tcp_session


class Client:
    name = "pynvim tcp_session"
    largest = LARGEST

    def __init__(self):
        # It begins with a notification for an editor, which is no method here.
        self.session = tcp_session(*address())
        self.session.error_wrapper = Refused

    def call(self, method, *params):
        return self.session.request(method.encode() if "reverse" in method else method, *params)

    def notify(self, method, *params):
        self.session.request(method, *params, async_=True)

    def told(self):
        message = self.session.next_message()
        return [message[1], message[2]]

    def many(self, calls):
        answers = [None] * len(calls)
        left = len(calls)
        inner = self.session._async_session

        def answered(at):
            def store(error, result):
                nonlocal left
                answers[at] = Refused(error) if error else result
                left -= 1
                if left == 0:
                    inner.stop()

            return store

        for at, (method, params) in enumerate(calls):
            inner.request(method, params, answered(at))
        inner.run(lambda *_: None, lambda *_: None)
        return answers


check(Client())
