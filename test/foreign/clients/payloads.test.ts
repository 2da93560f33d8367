import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { post, type StoredAnswer } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { HOSTILE_PAYLOADS, webhookPayloads, type Payload } from '../../support/webhooks.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await service.close();
});

/** A payload with the answer to its publish. */
type Published = Payload & { stored: StoredAnswer };

/** What goes into one request: far below the limit of a request, so that there are several. */
const BATCH_BYTES = 1024 * 1024;

async function publishAll(user: string, payloads: readonly Payload[]): Promise<Published[]> {
  const published: Published[] = [];
  for (let rest = payloads; rest.length > 0;) {
    const batch = [...firstOf(rest)];
    rest = rest.slice(batch.length);
    // The texts go into the body as they are: JSON.stringify would make other texts of them.
    const items = batch.map(
      ({ name, sent }) => `{"to":{"user":"${user}"},"type":${JSON.stringify(typeOf(name))},"data":${sent}}`,
    );
    const body = `{"notifications":[${items.join(',')}]}`;
    const answer = await post<{ notifications: StoredAnswer[] }>(
      `${service.url}/v1/notifications/batch`,
      serviceToken(),
      body,
    );
    expect({ status: answer.status, body: answer.body }).toMatchObject({ status: 201 });
    answer.body.notifications.forEach((stored, index) => {
      const payload = batch[index];
      if (payload !== undefined) published.push({ ...payload, stored });
    });
  }
  return published;
}

function* firstOf(payloads: readonly Payload[]): Generator<Payload> {
  let bytes = 0;
  for (const payload of payloads) {
    if (Buffer.byteLength(payload.arrives) > service.config.MAX_DATA_BYTES)
      throw new Error(`${payload.name} is larger than MAX_DATA_BYTES`);
    bytes += Buffer.byteLength(payload.sent);
    if (bytes > BATCH_BYTES) return;
    yield payload;
  }
}

const typeOf = (name: string) => (name.startsWith('github.') ? name : 'hostile');

/** The data line of the event that a payload has to become, letter by letter. */
const lineOf = (user: string, { name, arrives, stored }: Published): string =>
  `{"id":"${stored.id}","type":"${typeOf(name)}","to":{"user":"${user}"},"data":${arrives},"createdAt":"${stored.createdAt}","expiresAt":null}`;

async function linesOf(stream: StreamClient, count: number): Promise<string[]> {
  const unnamed = () => stream.events.filter(({ event }) => event === undefined);
  await stream.until(() => unnamed().length >= count, `${count} notifications`);
  return unnamed().map(({ data }) => data);
}

describe.each([
  { what: 'every example of a webhook', user: 'hooks', payloads: webhookPayloads() },
  { what: 'every hostile payload', user: 'hostile', payloads: HOSTILE_PAYLOADS },
])('$what', ({ user, payloads }) => {
  let live: string[];
  let published: Published[];
  beforeAll(async () => {
    const stream = await StreamClient.open(service.url, userToken({ user }));
    await stream.untilEvent('caught-up');
    published = await publishAll(user, payloads);
    live = await linesOf(stream, published.length);
    await stream.cut();
  });

  test('arrives live as it was written, but for white space between tokens', () => {
    expect(published).toHaveLength(payloads.length);
    expect(live).toEqual(published.map((payload) => lineOf(user, payload)));
  });

  test('arrives from the log as it arrived live', async () => {
    const stream = await StreamClient.open(service.url, userToken({ user, device: 'second' }));
    expect(await linesOf(stream, published.length)).toEqual(live);
    await stream.cut();
  });

  test('is in the history as it arrived, one by one and in an export', async () => {
    const authorization = `Bearer ${serviceToken({ client: 'operator', scope: 'history:read' })}`;
    const read = async (path: string, accept: string) => {
      const response = await fetch(`${service.url}/v1/notifications${path}`, {
        headers: { authorization, accept },
      });
      expect(response.status).toBe(200);
      return await response.text();
    };
    const lines = (await read(`?user=${user}`, 'application/x-ndjson')).trimEnd().split('\n').toReversed();
    const dataOf = (item: string) => /,"data":(.*),"publisher":"billing",/s.exec(item)?.[1];
    expect(lines.map(dataOf)).toEqual(published.map(({ arrives }) => arrives));
    for (const { arrives, stored } of published.slice(0, 40)) {
      expect(dataOf(await read(`/${stored.id}`, 'application/json'))).toBe(arrives);
    }
  });

  test('is the same value to whoever parses it', () => {
    const values = live.map((line) => (JSON.parse(line) as { data: unknown }).data);
    expect(values).toEqual(payloads.map(({ sent }) => JSON.parse(sent) as unknown));
  });
});
