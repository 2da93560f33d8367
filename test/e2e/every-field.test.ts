import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publishSchema } from '../../src/publishing/publication.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { readerOf, type Page } from '../support/admin.ts';
import { get, publish, type StoredAnswer } from '../support/api.ts';
import type { Service } from '../support/app.ts';
import { exported } from '../support/privacy.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { TwoNodes } from '../support/two-nodes.ts';

/*
 * A field of a notification passes many places: the append, the frame, what is read of the log for streams, history, the export.
 * A field that is forgotten at one of them is found here, also one that nobody has thought of yet.
 */

interface Sample {
  readonly sent: unknown;
  /** The member beside which it cannot stand: it is sent in place of that. */
  readonly insteadOf?: string;
  /** What readers see of it, if that is not what was sent, under the same name. */
  readonly seen?: Readonly<Record<string, unknown>>;
}

const SAMPLES: Readonly<Record<string, Sample>> = {
  to: { sent: { user: 'alice' } },
  type: { sent: 'order.shipped' },
  data: { sent: { title: 'On its way', lines: [1, null, 'é'] } },
  expiresAt: { sent: '2090-01-01T00:00:00.000Z' },
  ttlSeconds: {
    sent: 604_800,
    insteadOf: 'expiresAt',
    seen: { expiresAt: expect.stringMatching(/^20.*Z$/) },
  },
  inbox: { sent: false },
};

type Item = Readonly<Record<string, unknown>>;

interface Publication {
  readonly sent: Record<string, unknown>;
  readonly seen: Item;
}

/** One of these with every member that can stand beside the others, and one for each that stands in place of another. */
function publicationsOf(samples: Readonly<Record<string, Sample>>): Publication[] {
  const all = Object.entries(samples);
  const usual = all.filter(([, { insteadOf }]) => insteadOf === undefined);
  const forms = all.flatMap(([name, sample]) =>
    sample.insteadOf === undefined
      ? []
      : [[...usual.filter(([other]) => other !== sample.insteadOf), [name, sample] as const]],
  );
  return [usual, ...forms].map((members) => ({
    sent: Object.fromEntries(members.map(([name, { sent }]) => [name, sent])),
    seen: Object.assign({}, ...members.map(([name, { sent, seen }]) => seen ?? { [name]: sent })) as Item,
  }));
}

const PUBLICATIONS: readonly Publication[] = [
  { user: 'alice' },
  { topic: 'news' },
  { everyone: true },
].flatMap((to) => publicationsOf({ ...SAMPLES, to: { sent: to } }));

test('every member of a publish has a sample', () => {
  const missing = Object.keys(publishSchema.shape).filter((name) => !(name in SAMPLES));
  expect(
    missing.map(
      (name) =>
        `Add a sample of "${name}" to SAMPLES in this file: what is sent, and what readers see of it. Then the tests below tell where it is forgotten.`,
    ),
  ).toEqual([]);
});

/** What is for others, too, is not in it. */
const OF_USER = 'the export of the user';
const VIEWS = [
  'the live frame',
  'the live frame of another node',
  'the replay from memory',
  'the replay from the database',
  'the list of history',
  'one item of history',
  OF_USER,
] as const;
type View = (typeof VIEWS)[number];

const toldBy = ({ notifications }: StreamClient): Item[] => notifications.map((each) => ({ ...each }));
const hasUser = ({ to }: Item) => typeof to === 'object' && to !== null && 'user' in to;

describe('wherever a notification is read', () => {
  const tenant = 'acme';
  const token = userToken({ tenant, user: 'alice', topics: ['news'] });
  let nodes: TwoNodes;
  /** What was published, with what each view says of it. */
  let published: { readonly stored: StoredAnswer; readonly seen: Item }[];
  let views: Record<View, readonly Item[]>;

  beforeAll(async () => {
    nodes = await TwoNodes.start();
    const { here, there } = nodes;
    // The hubs begin behind it: who asks for it reads the log.
    const first = await publish(here.url, serviceToken({ tenant }), {
      to: { user: 'bob' },
      type: 't',
      data: 1,
    });
    const live = await nodes.open(here, token, { device: 'live' });
    const farLive = await nodes.open(there, token, { device: 'far-live' });
    published = [];
    for (const { sent, seen } of PUBLICATIONS)
      published.push({ stored: await publish(here.url, serviceToken({ tenant }), sent), seen });
    await live.untilNotifications(published.length);
    await farLive.untilNotifications(published.length);
    const fromMemory = await replay(here, Number(live.named('caught-up')[0]?.['position']), 0);
    const fromDatabase = await replay(here, Number(first.position) - 1, published.length);
    const list = await get<Page<Item>>(`${here.url}/v1/notifications`, readerOf(tenant));
    const items = await Promise.all(
      published.map(({ stored }) => get<Item>(`${here.url}/v1/notifications/${stored.id}`, readerOf(tenant))),
    );
    views = {
      'the live frame': toldBy(live),
      'the live frame of another node': toldBy(farLive),
      'the replay from memory': toldBy(fromMemory),
      'the replay from the database': toldBy(fromDatabase),
      'the list of history': list.body.items,
      'one item of history': items.map(({ body }) => body),
      [OF_USER]: await exported(here.url, tenant, 'alice'),
    };
  });
  afterAll(async () => {
    await nodes.cutAll();
    await nodes.close();
  });

  /** A stream from this position on, that is from where it is meant to be: so many notifications were read from the database for it. */
  async function replay(node: Service, after: number, read: number): Promise<StreamClient> {
    const rows = async () => (await node.app.get(Metrics).backlogRows.get()).values[0]?.value ?? 0;
    const before = await rows();
    const stream = await nodes.open(node, token, { device: `after-${after}`, lastEventId: String(after) });
    expect(stream.notifications).toHaveLength(published.length);
    expect((await rows()) - before).toBe(read);
    return stream;
  }

  /** What a view says of one notification, as far as it is among these names. */
  const saidIn = (view: View, id: string, names: Item): Item => {
    const item = views[view].find((each) => each['id'] === id) ?? {};
    return Object.fromEntries(Object.entries(item).filter(([name]) => name in names));
  };
  const isIn = (view: View, { seen }: { seen: Item }) => view !== OF_USER || hasUser(seen);

  test.each(VIEWS)('%s says of every field what was published', (view) => {
    for (const { stored, seen } of published.filter((each) => isIn(view, each)))
      expect(saidIn(view, stored.id, { ...stored, ...seen })).toEqual({ ...stored, ...seen });
  });

  test('all say the same, also of what the service has made of a field', () => {
    for (const one of published) {
      const said = VIEWS.filter((view) => isIn(view, one)).map((view) =>
        saidIn(view, one.stored.id, one.seen),
      );
      for (const each of said) expect(each).toEqual(said[0]);
    }
  });
});
