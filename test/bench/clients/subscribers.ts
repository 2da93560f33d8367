import type { Socket } from 'node:net';
import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import type { SystemName } from '../systems/system.ts';
import { LatencyRecorder } from './latencies.ts';
import { now, subscriptionsTo } from './wire.ts';

/* So many users of a system, one stream each. A round lasts until so many messages have come, to all of them together. */

const [, , system = '', port = '', users = '', to = '', expected = ''] = process.argv;

const STAMP = /"at":(\d+)/g;
let recorder = new LatencyRecorder();
let left = 0;
let done: (() => void) | undefined;
/** What has come of frames whose end has not. */
const begun = new WeakMap<Socket, string>();

function hear(text: string, socket: Socket): void {
  const whole = (begun.get(socket) ?? '') + text;
  const end = whole.lastIndexOf('\n\n');
  begun.set(socket, whole.slice(end + 2));
  const at = now();
  for (const [, stamp] of whole.slice(0, end + 2).matchAll(STAMP)) {
    recorder.record(at - Number(stamp));
    left -= 1;
  }
  if (left === 0) done?.();
}

const sockets = new Sockets(
  Number(port),
  subscriptionsTo(system as SystemName, Number(users), to === 'everyone' ? 'everyone' : 'user'),
  hear,
);

await obey({
  prepare: () => sockets.openAll(100),
  async round() {
    recorder = new LatencyRecorder();
    left = Number(expected);
    await new Promise<void>((resolve) => (done = resolve));
    return recorder.latencies;
  },
});
