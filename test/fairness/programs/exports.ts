import { Agent } from 'node:http';
import { serviceToken } from '../../support/tokens.ts';
import { postJson } from '../../load/post-json.ts';
import { giveWay, obey } from '../../load/rounds.ts';

/* A tenant that reads all there is of one of its users, so many times at once, as fast as it comes. */

const [, , url = '', readers = ''] = process.argv;
giveWay();
const token = serviceToken({ tenant: 'flood', scope: 'notifications:publish history:read' });

async function publishBatch(agent: Agent): Promise<void> {
  const notifications = Array.from({ length: 100 }, (_, n) => ({
    to: { user: 'alice' },
    type: 'n',
    data: { n },
  }));
  const status = await postJson(
    `${url}/v1/notifications/batch`,
    token,
    JSON.stringify({ notifications }),
    agent,
  );
  if (status !== 201) throw new Error(`a batch was answered ${status}`);
}

/** Answers how many bytes it read until then. */
async function readExport(stopped: AbortSignal): Promise<number> {
  let bytes = 0;
  try {
    const answer = await fetch(`${url}/v1/users/alice/data`, {
      headers: { authorization: `Bearer ${token}` },
      signal: stopped,
    });
    if (answer.body === null || !answer.ok) throw new Error(`an export was answered ${answer.status}`);
    for await (const chunk of answer.body) bytes += chunk.byteLength;
  } catch (error) {
    if (!stopped.aborted) throw error;
  }
  return bytes;
}

await obey({
  async prepare() {
    const agent = new Agent({ keepAlive: true });
    for (let sent = 0; sent < 200; sent += 1) await publishBatch(agent);
    agent.destroy();
  },
  async round(stopped) {
    let bytes = 0;
    const read = async (): Promise<void> => {
      while (!stopped.aborted) {
        const more = await readExport(stopped);
        bytes += more;
      }
    };
    await Promise.all(Array.from({ length: Number(readers) }, read));
    return `${bytes} bytes`;
  },
});
