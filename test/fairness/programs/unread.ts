import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { serviceToken } from '../../support/tokens.ts';
import { postJson } from '../../load/post-json.ts';
import { giveWay, obey } from '../../load/rounds.ts';
import { Sockets, usersOf } from '../../load/sockets.ts';

/* A tenant whose clients, so many, stop reading, and which sends them so many broadcasts a second. They read on when it is over. */

const [, , url = '', count = '', perSecond = ''] = process.argv;
giveWay();
const agent = new Agent({ keepAlive: true });
const token = serviceToken({ tenant: 'flood' });
const body = JSON.stringify({ to: { everyone: true }, type: 'n', data: 'x'.repeat(8_000) });
const sockets = new Sockets(Number(new URL(url).port), usersOf('flood', Number(count)));

await obey({
  prepare: () => sockets.openAll(),
  async round(stopped) {
    sockets.pauseAll();
    let sent = 0;
    for (; !stopped.aborted; sent += 1) {
      const status = await postJson(`${url}/v1/notifications`, token, body, agent);
      if (status !== 201) throw new Error(`a broadcast was answered ${status}`);
      await sleep(1_000 / Number(perSecond));
    }
    sockets.resumeAll();
    return `${sent} broadcasts`;
  },
});
