// npm msgpack5rpc: a session over any stream.
'use strict';
const net = require('net');
const Session = require('msgpack5rpc');
const { Refused, address, check } = require('./checks.js');

const socket = net.connect(address(), () => {
  const session = new Session();
  session.attach(socket, socket);
  check({
    name: 'msgpack5rpc',
    largest: Number.MAX_SAFE_INTEGER,
    call: (method, ...params) =>
      new Promise((resolve, reject) =>
        session.request(method, params, (error, result) => (error ? reject(new Refused(error)) : resolve(result)))
      ),
    notify: (method, ...params) => session.notify(method, params),
  });
});
