import { Agent } from 'node:http';
import { serviceToken } from '../../support/tokens.ts';
import { postJson } from '../../load/post-json.ts';
import { giveWay, obey } from '../../load/rounds.ts';

/* A tenant that publishes as fast as it is answered, on so many connections, whatever the answer is. */

const [, , url = '', connections = ''] = process.argv;
giveWay();
const agent = new Agent({ keepAlive: true, maxSockets: Number(connections) });
const token = serviceToken({ tenant: 'flood' });
const body = JSON.stringify({ to: { user: 'nobody' }, type: 'n', data: 'x'.repeat(200) });

await obey({
  async round(stopped) {
    const answers: Record<number, number> = {};
    const publish = async (): Promise<void> => {
      while (!stopped.aborted) {
        const status = await postJson(`${url}/v1/notifications`, token, body, agent);
        answers[status] = (answers[status] ?? 0) + 1;
      }
    };
    await Promise.all(Array.from({ length: Number(connections) }, publish));
    return answers;
  },
});
