// What every client of npm has to get right: the same as checks.py.
'use strict';
const assert = require('assert');

class Refused extends Error {
  constructor(error) {
    super(`[${error[0]}, ${error[1]}]`);
    this.code = error[0];
    this.text = error[1];
    this.details = error[2] || {};
  }
}

module.exports = {
  Refused,
  address() {
    const at = process.argv[2].lastIndexOf(':');
    return { host: process.argv[2].slice(0, at), port: Number(process.argv[2].slice(at + 1)) };
  },
  async check(client) {
    const call = (method, ...params) => client.call('demo.kinds.' + method, ...params);
    const same = (got, expected) => assert.deepStrictEqual(got, expected);
    const order = { id: 7, lines: [{ name: 'tea', quantity: 2 }, { name: 'pot', quantity: 1 }], note: 'soon' };
    const receipt = { order, pieces: 3 };
    const refused = async (code, text, method, ...params) => {
      let got;
      try {
        got = await client.call(method, ...params);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        assert.ok(error.code === code && error.text.includes(text), `got ${error.message}, expected ${code} ${text}`);
        return error;
      }
      assert.fail(`${method} answered ${got}`);
    };
    const tests = {
      async unary() {
        same(await call('reverse', 'Grüße'), 'eßürG');
        same(await call('reverse', ''), '');
        const large = client.largest;
        same(await call('numbers', -128, large, 1.5), { small: -128, large, ratio: 3 });
        same(await call('numbers', 127, 0, 2), { small: 127, large: 0, ratio: 4 });
        same(await call('not', true), false);
        same(await call('maybe', 'x'), 'x');
        same(await call('maybe', null), null);
        same(await call('maybe'), null);
        same(await call('sorted', [3, -40000, 70000, -1]), [-40000, -1, 3, 70000]);
        same(await call('sorted', []), []);
        same(await call('doubled', { a: 1, b: -2 }), { a: 2, b: -4 });
        const { bytes } = await call('inverted', Buffer.from([0, 255, 128, 97]));
        same([...bytes], [255, 0, 127, 158]);
        same(await call('place_order', order), receipt);
      },
      async by_name() {
        same(await call('place_order', { order }), receipt);
        same(await client.call('demo.kinds/PlaceOrder', order), receipt);
      },
      async errors() {
        const error = await refused(5, '', 'demo.kinds.find', 9);
        same(error.details.type, 'NoSuch');
        same(error.details.data, { NoSuch: { id: 9 } });
        await refused(12, 'did you mean `reverse`', 'demo.kinds.revers', 'x');
        await refused(3, 'takes 1 parameter (text), got 2', 'demo.kinds.reverse', 'x', 'y');
        await refused(3, 'parameter `text` is missing', 'demo.kinds.reverse');
        await refused(3, 'large: expected u64, got str', 'demo.kinds.numbers', 1, 'x', 1.5);
      },
      async notify() {
        const before = await call('touched');
        client.notify('demo.kinds.touch', 3);
        client.notify('demo.kinds.reverse', 'nobody hears it');
        client.notify('demo.kinds.touch', 4);
        const until = Date.now() + 10000;
        while ((await call('touched')) !== before + 7) assert.ok(Date.now() < until, 'the sum never came');
      },
      async many() {
        const texts = Array.from({ length: 500 }, (_, n) => `text number ${n}`);
        const answers = await Promise.all(texts.map((text) => call('reverse', text)));
        same(answers, texts.map((text) => [...text].reverse().join('')));
      },
      async tells() {
        assert.ok((await client.call('rpc.list')).includes('demo.kinds.place_order'));
        same((await client.call('rpc.describe', 'demo.kinds.numbers')).params, ['small', 'large', 'ratio']);
        same((await client.call('rpc.health', 'demo.kinds')).status, 'serving');
      },
    };
    let failed = 0;
    for (const [name, test] of Object.entries(tests)) {
      const begun = process.hrtime.bigint();
      let result = 'ok';
      try {
        await test();
      } catch (error) {
        failed = 1;
        result = `FAILED ${String(error.message).replace(/\s+/g, ' ')}`;
      }
      const took = (Number(process.hrtime.bigint() - begun) / 1e6).toFixed(1);
      console.log(`${client.name.padEnd(26)} ${name.padEnd(8)} ${took.padStart(7)} ms  ${result}`);
    }
    process.exit(failed);
  },
};
