import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await service.close();
});

let tenants = 0;

/** A tenant with three notifications for alice, who has a cursor behind the first. */
async function aliceWithThree() {
  const tenant = `resume-${(tenants += 1)}`;
  const token = userToken({ tenant });
  const positions: string[] = [];
  for (let i = 0; i < 3; i += 1)
    positions.push(
      (await publish(service.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: i }))
        .position,
    );
  const [first = '', second = '', third = ''] = positions;
  const before = await StreamClient.open(service.url, token, { lastEventId: first });
  await before.untilEvent('caught-up');
  await before.cut();
  return { tenant, token, first, second, third };
}

/** Opens a stream, reads its backlog, and tells how it began and what it held. */
async function backlog(token: string, options: Parameters<typeof StreamClient.open>[2]) {
  const stream = await StreamClient.open(service.url, token, options);
  expect(stream.status).toBe(200);
  await stream.untilEvent('caught-up');
  await stream.cut();
  return {
    sync: stream.named('sync')[0] ?? {},
    data: stream.notifications.map(({ data }) => data),
    lastEventId: stream.lastEventId,
  };
}

const acks = async (tenant: string) =>
  await service.database.query(
    'select from_position, to_position, by_resume from acks where tenant_id = $1 order by to_position',
    [tenant],
  );

describe('a position that cannot be one is never refused: the stream starts where it would without', () => {
  test.each([
    ['letters', 'abc'],
    ['a negative number', '-5'],
    ['a leading zero', '01790000000000000'],
    ['a fraction', '1.5'],
    ['an exponent', '1e15'],
    ['400 digits', '9'.repeat(400)],
    ['the first number that is not safe', String(2 ** 53)],
    ['5,000 characters', 'x'.repeat(5_000)],
    ['spaces inside', '1 2'],
    ['digits of another script', '\u0661\u0662'],
    ['a NUL', '12\u0000'],
    ['a line break', '12\n13'],
    ['a list', '12,13'],
  ])('%s in the query', async (_, lastEventId) => {
    const { tenant, token, first } = await aliceWithThree();
    const confirmed = await acks(tenant);
    const { sync, data } = await backlog(token, { query: { lastEventId } });
    expect(sync).toMatchObject({ resume: 'reset', from: first });
    expect(data).toEqual([1, 2]);
    // A reset confirms nothing.
    expect(await acks(tenant)).toEqual(confirmed);
  });

  test.each([
    ['letters', 'abc'],
    ['a negative number', '-5'],
    ['400 digits', '9'.repeat(400)],
    ['leading zeros', '007'],
    ['characters beyond ASCII', 'caf\u00e9'],
  ])('%s in the header', async (_, lastEventId) => {
    const { token, first } = await aliceWithThree();
    const { sync, data } = await backlog(token, { lastEventId });
    expect(sync).toMatchObject({ resume: 'reset', from: first });
    expect(data).toEqual([1, 2]);
  });

  test('percent signs that encode nothing', async () => {
    const { token } = await aliceWithThree();
    for (const raw of ['%00', '%zz', '%', '%ff%fe', '12%00']) {
      const response = await fetch(`${service.url}/v1/stream?lastEventId=${raw}`, {
        headers: { authorization: `Bearer ${token}` },
      });
      expect(response.status).toBe(200);
      await response.body?.cancel();
    }
  });
});

describe('a position ahead of the log', () => {
  test('is a reset', async () => {
    const { tenant, token, third, first } = await aliceWithThree();
    const confirmed = await acks(tenant);
    const ahead = String(Number(third) + 1);
    const { sync, data } = await backlog(token, { lastEventId: ahead });
    expect(sync).toMatchObject({ resume: 'reset', from: first, head: third });
    expect(data).toEqual([1, 2]);
    expect(await acks(tenant)).toEqual(confirmed);
  });

  test('is one, too, when another tenant has come as far', async () => {
    const { token } = await aliceWithThree();
    const other = await publish(service.url, serviceToken({ tenant: 'further' }), {
      to: { user: 'alice' },
      type: 't',
      data: 'theirs',
    });
    const { sync, data } = await backlog(token, { lastEventId: other.position });
    expect(sync).toMatchObject({ resume: 'reset' });
    expect(data).toEqual([1, 2]);
  });

  test('`from` says where a reset starts', async () => {
    const { token, third } = await aliceWithThree();
    expect(await backlog(token, { lastEventId: 'x', query: { from: 'earliest' } })).toMatchObject({
      sync: { resume: 'reset', from: '0' },
      data: [0, 1, 2],
    });
    expect(await backlog(token, { lastEventId: 'x', query: { from: 'latest' } })).toMatchObject({
      sync: { resume: 'reset', from: third },
      data: [],
    });
  });
});

describe('a position that is one', () => {
  test('is resumed exactly, and confirms what is before it', async () => {
    const { tenant, token, first, second } = await aliceWithThree();
    const { sync, data } = await backlog(token, { lastEventId: second });
    expect(sync).toMatchObject({ resume: 'exact', from: second });
    expect(data).toEqual([2]);
    expect((await acks(tenant)).at(-1)).toEqual({
      from_position: Number(first),
      to_position: Number(second),
      by_resume: true,
    });
  });

  test('may be between notifications, at the head, or 0', async () => {
    const { token, second, third } = await aliceWithThree();
    expect(await backlog(token, { lastEventId: '0' })).toMatchObject({
      sync: { resume: 'exact', from: '0' },
      data: [0, 1, 2],
    });
    expect(await backlog(token, { lastEventId: String(Number(second) - 1) })).toMatchObject({
      sync: { resume: 'exact' },
      data: [1, 2],
    });
    expect(await backlog(token, { lastEventId: third })).toMatchObject({
      sync: { resume: 'exact' },
      data: [],
      lastEventId: third,
    });
  });

  test('counts before `from`', async () => {
    const { token, second } = await aliceWithThree();
    for (const from of ['latest', 'earliest', 'undelivered']) {
      expect(await backlog(token, { lastEventId: second, query: { from } })).toMatchObject({
        sync: { resume: 'exact' },
        data: [2],
      });
    }
  });

  test('in the header counts before one in the query, and an empty header is none', async () => {
    const { token, first, second } = await aliceWithThree();
    expect(await backlog(token, { lastEventId: second, query: { lastEventId: first } })).toMatchObject({
      sync: { from: second },
      data: [2],
    });
    expect(await backlog(token, { lastEventId: '', query: { lastEventId: second } })).toMatchObject({
      sync: { resume: 'exact', from: second },
      data: [2],
    });
    expect(await backlog(token, { lastEventId: '', query: { lastEventId: '' } })).toMatchObject({
      sync: { resume: 'undelivered' },
    });
    expect(await backlog(token, { lastEventId: 'x', query: { lastEventId: second } })).toMatchObject({
      sync: { resume: 'reset' },
    });
  });

  test('on a tenant that nobody has published to is a reset unless it is 0', async () => {
    const token = userToken({ tenant: 'untouched' });
    expect(await backlog(token, { lastEventId: '1' })).toMatchObject({
      sync: { resume: 'reset', from: '0', head: '0' },
      data: [],
    });
    expect(await backlog(token, { lastEventId: '0' })).toMatchObject({
      sync: { resume: 'exact', from: '0' },
      lastEventId: '0',
    });
  });
});
