// npm msgpack-rpc-lite: promises.
'use strict';
const rpc = require('msgpack-rpc-lite');
const { Refused, address, check } = require('./checks.js');

const { host, port } = address();
const client = rpc.createClient(port, host);
check({
  name: 'msgpack-rpc-lite',
  // Above it msgpack-lite writes a float, unless the caller wraps the number.
  largest: 2 ** 31 - 1,
  call: async (method, ...params) => {
    let answer;
    try {
      answer = await client.request(method, ...params);
    } catch (error) {
      throw Array.isArray(error) ? new Refused(error) : error;
    }
    // It gives [result, id].
    return Array.isArray(answer) ? answer[0] : answer;
  },
  notify: (method, ...params) => client.notify(method, ...params),
});
