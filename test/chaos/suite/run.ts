import { setTimeout as sleep } from 'node:timers/promises';
import { serviceToken } from '../../support/tokens.ts';
import { Books, nameOf, type Published, type To } from './books.ts';
import { Device, type Habit } from './devices.ts';
import { inflict } from './faults.ts';
import { Installation } from './installation.ts';
import { Publisher, TOKEN_TIMES } from './publishers.ts';
import { Random } from './random.ts';
import { reportOf, type FaultRecord, type Report } from './report.ts';
import { schedule, type BusKind, type Trouble } from './schedule.ts';

export interface Options {
  readonly minutes: number;
  readonly seed: number;
  readonly nodes: number;
  readonly bus: BusKind;
  /** Of each tenant. */
  readonly users?: number;
}

const TENANTS = ['acme', 'globex'] as const;
const TOPICS = ['news', 'sport', 'weather', 'traffic'];
const DEVICES = ['phone', 'laptop', 'tablet'];
const PUBLISHERS = 8;
const PUBLISHER_PAUSE_MS = 150;

/** For what never comes: how long a machine may take says nothing. */
const PATIENCE_MS = 300_000;

/** Runs everything, troubles it for so many minutes, and balances the books. `say`: a line for whoever watches. */
export async function runChaos(options: Options, say: (line: string) => void): Promise<Report> {
  const { minutes, seed, nodes, bus, users = 40 } = options;
  const books = new Books();
  const installation = await Installation.start(nodes, bus, books);
  const crowd = new Crowd(books, installation.urls, seed, users);
  try {
    say(`${nodes} nodes, bus ${bus}, ${crowd.devices.length} devices, seed ${seed}`);
    crowd.begin(minutes * 60_000);
    const faults = await trouble(options, installation, crowd, books, say);
    say('all faults are healed; everybody reads to the end');
    await crowd.finish();
    await readEverything(installation, crowd, books);
    await checkHistory(installation, crowd, books);
    await checkInboxes(installation, crowd, books);
    books.balance();
    return reportOf(options, books, faults);
  } finally {
    await crowd.leave();
    await installation.end();
  }
}

/** Those who publish, and those who listen. */
class Crowd {
  readonly devices: Device[] = [];
  readonly #publishers: Publisher[] = [];
  readonly #running: Promise<void>[] = [];
  readonly #publishing: Promise<void>[] = [];
  readonly #stop = new AbortController();

  constructor(
    private readonly books: Books,
    urls: readonly string[],
    private readonly seed: number,
    users: number,
  ) {
    const names = Array.from({ length: users }, (_, n) => `user-${n}`);
    for (const tenant of TENANTS) {
      for (const [n, user] of names.entries())
        for (const device of DEVICES) {
          const random = new Random(seed, `${tenant}/${user}/${device}`);
          const topics = TOPICS.filter((_, index) => (n + index) % 3 === 0);
          this.devices.push(
            new Device({ tenant, user, device, topics }, habitOf(random), urls, books, random),
          );
        }
      for (let n = 0; n < PUBLISHERS; n += 1) {
        const name = `publisher-${n}`;
        const random = new Random(seed, `${tenant}/${name}`);
        const people = { users: names, topics: TOPICS };
        this.#publishers.push(new Publisher(tenant, name, people, urls, books, random, PUBLISHER_PAUSE_MS));
      }
    }
  }

  /** Most devices are there from the beginning; some come later, within the first half of `forMs`. */
  begin(forMs: number): void {
    const random = new Random(this.seed, 'arrivals');
    for (const device of this.devices) {
      const after = random.chance(0.15) ? random.between(0, forMs / 2) : random.between(0, 1_000);
      this.#running.push(
        sleep(after, undefined, { signal: this.#stop.signal }).then(
          () => device.run(),
          () => undefined,
        ),
      );
    }
    this.#publishing.push(...this.#publishers.map((publisher) => publisher.run()));
  }

  /** Nobody publishes any more, what was sent is answered, and nobody goes away or stops reading. */
  async finish(): Promise<void> {
    for (const publisher of this.#publishers) publisher.stop();
    const late = sleep(PATIENCE_MS, true, { ref: false });
    if (await Promise.race([Promise.all(this.#publishing).then(() => false), late]))
      this.books.find('unhealed', 'publishes are not answered any more');
    for (const device of this.devices) device.settle();
  }

  async leave(): Promise<void> {
    for (const publisher of this.#publishers) publisher.abandon();
    this.#stop.abort();
    for (const device of this.devices) device.leave();
    await Promise.all([...this.#running, ...this.#publishing]);
  }

  /** Resolves when everybody who is there has all that was published by now; false: that takes too long. */
  async untilAllHave(finding: string): Promise<boolean> {
    const missing = new Map(this.devices.map((device) => [device, this.books.lastFor(device.who)]));
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      for (const [device, last] of missing)
        if (device.book.reached >= last || !device.isPresent) missing.delete(device);
      if (missing.size === 0) return true;
      if (performance.now() > deadline) break;
      await sleep(20);
    }
    for (const [{ who, book }, last] of missing)
      this.books.find('unhealed', `${nameOf(who)} after ${finding}: it has ${book.reached} of ${last}`);
    return false;
  }
}

function habitOf(random: Random): Habit {
  const dice = random.next();
  const carries = random.chance(0.7);
  return {
    carries,
    // Without a position nor a cursor it reads all from the beginning, each time: some do.
    acknowledges: random.chance(carries ? 0.4 : 0.9),
    marks: random.chance(0.3),
    goesDeaf: dice < 0.1,
    vanishes: dice > 0.6,
  };
}

/** One trouble after the other, until the time is over. */
async function trouble(
  { minutes, seed, nodes, bus }: Options,
  installation: Installation,
  crowd: Crowd,
  books: Books,
  say: (line: string) => void,
): Promise<FaultRecord[]> {
  const records: FaultRecord[] = [];
  const began = performance.now();
  const isOver = () => performance.now() - began > minutes * 60_000;
  for (const next of schedule(seed, nodes, TENANTS.length, bus)) {
    await sleep(next.gapMs);
    if (isOver()) break;
    const at = performance.now();
    await inflictAll(next, installation);
    const endedAt = performance.now();
    const names = next.faults.map(({ kind }) => kind).join(' + ');
    const healed = await crowd.untilAllHave(names);
    const healMs = performance.now() - endedAt;
    await Promise.all(installation.nodes.map((node) => node.ready()));
    const unavailableMs = books.unavailable(at, performance.now());
    for (const { kind } of next.faults) records.push({ kind, healMs, unavailableMs });
    say(
      `${seconds(at - began)} ${names} for ${seconds(endedAt - at)}: ${healed ? `healed after ${seconds(healMs)}` : 'NOT HEALED'}, no publish for ${seconds(unavailableMs)}; ${books.published} published, ${books.delivered} delivered, ${[...books.found.values()].reduce((sum, { count }) => sum + count, 0)} findings`,
    );
    if (!healed) break;
  }
  return records;
}

const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`;

async function inflictAll({ faults, apartMs }: Trouble, installation: Installation): Promise<void> {
  await Promise.all(
    faults.map(async (fault, index) => {
      await sleep(index * apartMs);
      await inflict(fault, TENANTS[fault.tenant] ?? '', installation);
    }),
  );
}

/** All come back once more, those without a position from their cursor, and read to the end. */
async function readEverything(installation: Installation, crowd: Crowd, books: Books): Promise<void> {
  await Promise.all(installation.nodes.map((node) => node.ready()));
  if (!(await crowd.untilAllHave('the end'))) return;
  const before = new Map(crowd.devices.map(({ book }) => [book, book.readings.length]));
  for (const device of crowd.devices) device.cut();
  const isBack = ({ book, who }: Device): boolean =>
    book.readings.length > (before.get(book) ?? 0) && (book.readings.at(-1)?.upTo ?? 0) >= books.lastFor(who);
  const deadline = performance.now() + PATIENCE_MS;
  while (!crowd.devices.every(isBack) && performance.now() < deadline) await sleep(20);
  for (const device of crowd.devices)
    if (!isBack(device)) books.find('unhealed', `${nameOf(device.who)} did not read to the end once more`);
}

interface HistoryItem {
  readonly id: string;
  readonly to: To;
  readonly devices?: readonly {
    readonly user: string;
    readonly device: string;
    readonly deliveredAt: string | null;
  }[];
  readonly counts?: { readonly delivered: number };
}

/** What was acknowledged, and answered, is delivered in history. */
async function checkHistory({ urls }: Installation, crowd: Crowd, books: Books): Promise<void> {
  for (const tenant of TENANTS) {
    const items = await historyOf(tenant, urls[0] ?? '');
    /** By notification: whose devices have confirmed it. */
    const confirmed = new Map<string, { readonly published: Published; readonly by: string[] }>();
    for (const { book, who } of crowd.devices) {
      if (who.tenant !== tenant) continue;
      for (const published of books.confirmed(book)) {
        const entry = confirmed.get(published.id) ?? { published, by: [] };
        confirmed.set(published.id, entry);
        entry.by.push(`${who.user}/${who.device}`);
      }
    }
    for (const [id, { published, by }] of confirmed) {
      const item = items.get(id);
      const delivered = item?.devices?.filter(({ deliveredAt }) => deliveredAt !== null) ?? [];
      const names = new Set(delivered.map(({ user, device }) => `${user}/${device}`));
      const missing =
        item?.counts === undefined ? by.filter((name) => !names.has(name)) : by.slice(item.counts.delivered);
      if (missing.length > 0)
        books.find(
          'forgotten',
          `${id} (n ${published.n}) at ${published.position}: ${missing.join(', ')} confirmed it, and history does not say so`,
        );
    }
  }
}

/** Counted one by one, by nothing of what the service counts with. Nobody archives here. */
const ORACLE = `
select w.tenant, w."user", count(n.id)::int as unread
from json_to_recordset($1) as w (tenant text, "user" text, topics text[])
join inbox_users u on u.tenant_id = w.tenant and u.user_id = w."user"
join tenant_logs l on l.tenant_id = w.tenant
left join notifications n on n.tenant_id = w.tenant and n.position > l.floor and (n.expires_at is null or n.expires_at > now())
  and (n.user_id = w."user"
    or (n.user_id is null and n.position > u.since and (n.topic is null or n.topic = any(w.topics))))
  and not coalesce((
    select m.read from inbox_marks m where m.tenant_id = w.tenant and m.user_id = w."user" and m.position = n.position
  ), n.position <= u.read_up_to)
group by 1, 2`;

/** A count goes no further. */
const COUNTED = 1_000;

/** Waits until each stream shows, and each node answers, what the database has. */
async function checkInboxes(installation: Installation, crowd: Crowd, books: Books): Promise<void> {
  const people = new Map(crowd.devices.map(({ who }) => [`${who.tenant} ${who.user}`, who]));
  const asked = JSON.stringify([...people.values()]);
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const counted = await installation.onceThere(async (client) => {
      const { rows } = await client.query<{ tenant: string; user: string; unread: number }>(ORACLE, [asked]);
      return new Map(rows.map(({ tenant, user, unread }) => [`${tenant} ${user}`, unread]));
    });
    const wrong = crowd.devices.flatMap(({ who, number }) => {
      const unread = counted.get(`${who.tenant} ${who.user}`) ?? 0;
      const shown = number();
      const isRight = shown?.exact === false ? unread > COUNTED : shown?.unread === unread;
      return isRight ? [] : [`${nameOf(who)} shows ${JSON.stringify(shown)}, and has ${unread}`];
    });
    if (wrong.length === 0) return;
    if (performance.now() > deadline) {
      for (const one of wrong) books.find('miscounted', one);
      return;
    }
    await sleep(500);
  }
}

async function historyOf(tenant: string, url: string): Promise<Map<string, HistoryItem>> {
  const token = serviceToken({ tenant, client: 'desk', scope: 'history:read', claims: TOKEN_TIMES });
  const response = await fetch(`${url}/v1/notifications`, {
    headers: { authorization: `Bearer ${token}`, accept: 'application/x-ndjson' },
  });
  if (!response.ok) throw new Error(`history was answered ${response.status}: ${await response.text()}`);
  const lines = (await response.text()).split('\n').filter((line) => line !== '');
  return new Map(
    lines.map((line) => {
      const item = JSON.parse(line) as HistoryItem;
      return [item.id, item];
    }),
  );
}
