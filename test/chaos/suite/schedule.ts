import { Random } from './random.ts';

/** What goes wrong. Those with a place happen to one node, or on its way to another part. */
const KINDS = [
  'kill a node',
  'freeze a node',
  'another clock on a node',
  'end sessions of the database',
  'kill a backend of the database',
  'kill the database',
  'freeze the database',
  'lock a log',
  'cut clients',
  'slow clients',
  'stall clients',
  'half-open clients',
  'cut database',
  'slow database',
  'stall database',
  'half-open database',
] as const;

const KINDS_OF_NATS = [
  'kill nats',
  'freeze nats',
  'cut nats',
  'slow nats',
  'stall nats',
  'half-open nats',
] as const;

export type Kind = (typeof KINDS)[number] | (typeof KINDS_OF_NATS)[number];

export type BusKind = 'postgres' | 'nats';

export interface Fault {
  readonly kind: Kind;
  /** Of the node that it happens to, if it does to one. */
  readonly node: number;
  /** Of the tenant whose log is locked. */
  readonly tenant: number;
  /** How long it lasts, in ms. */
  readonly forMs: number;
  /** By how much the clock of the node is wrong, in ms. */
  readonly clockMs: number;
}

/** Faults that happen together, the second a moment after the first. */
export interface Trouble {
  /** After the one before has healed, in ms. */
  readonly gapMs: number;
  readonly faults: readonly Fault[];
  /** Between the beginnings of two, in ms. */
  readonly apartMs: number;
}

/** Longest that each lasts, in ms, where it is not the usual. */
const LONGEST_MS: Partial<Record<Kind, number>> = {
  'freeze a node': 14_000,
  'lock a log': 20_000,
  'stall database': 12_000,
};
const USUAL_MS = 7_000;
const SHORTEST_MS = 500;

/** Forever: the same for the same seed, however long the machine takes. Every kind comes once before one comes again. */
export function* schedule(
  seed: number,
  nodes: number,
  tenants: number,
  bus: BusKind,
): Generator<Trouble, never> {
  const random = new Random(seed, 'schedule');
  const kinds: readonly Kind[] = bus === 'nats' ? [...KINDS, ...KINDS_OF_NATS] : KINDS;
  let deck: Kind[] = [];
  const draw = (): Fault => {
    if (deck.length === 0) deck = random.shuffled(kinds);
    const kind = deck.pop() ?? 'kill a node';
    return {
      kind,
      node: random.integer(nodes),
      tenant: random.integer(tenants),
      forMs: Math.round(random.between(SHORTEST_MS, LONGEST_MS[kind] ?? USUAL_MS)),
      clockMs: Math.round(random.between(-120_000, 120_000)),
    };
  };
  for (;;) {
    const together = random.chance(0.3);
    yield {
      gapMs: Math.round(random.between(200, 3_000)),
      faults: together ? [draw(), draw()] : [draw()],
      apartMs: Math.round(random.between(0, 2_000)),
    };
  }
}
