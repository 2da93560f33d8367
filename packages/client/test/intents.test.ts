import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  nextRequest,
  NOTHING,
  withItem,
  without,
  withWatermark,
  type Axis,
  type Intents,
} from '../src/intents.ts';
import type { Marks } from '../src/wire.ts';
import { Service } from './inbox-service.ts';

const NOTIFICATIONS = 6;
const AT = '2026-01-01T00:00:00.000Z';

type Step =
  | { kind: 'item'; n: number; read?: boolean; archived?: boolean }
  | { kind: 'watermark'; axis: Axis; upTo: number; knows: number };

const anyItem = fc
  .record(
    { n: fc.integer({ min: 1, max: NOTIFICATIONS }), read: fc.boolean(), archived: fc.boolean() },
    { requiredKeys: ['n'] },
  )
  .filter(({ read, archived }) => read !== undefined || archived !== undefined);
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  anyItem.map((item): Step => ({ kind: 'item', ...item })),
  fc.record({
    kind: fc.constant('watermark' as const),
    axis: fc.constantFrom('seenUpTo', 'readUpTo', 'archivedUpTo'),
    upTo: fc.integer({ min: 1, max: NOTIFICATIONS }),
    knows: fc.integer({ min: 1, max: 8 }),
  }),
);

const line = (n: number) => ({
  id: `n${n}`,
  position: String(n),
  expiresAt: null,
  seen: false,
  readAt: null,
  archivedAt: null,
});

/** What another device said before: this one knows of it up to some revision. */
function service(others: readonly Marks[]): Service {
  const it = new Service(() => 0);
  for (let n = 0; n < NOTIFICATIONS; n += 1) it.publish('t');
  for (const marks of others) it.mark(marks);
  return it;
}

const folded = (intents: Intents, step: Step): Intents => {
  const at = AT;
  if (step.kind === 'watermark') {
    const { axis, upTo, knows } = step;
    return withWatermark(intents, { axis, upTo: String(upTo), revision: String(knows), at });
  }
  const { n, kind: _, ...change } = step;
  return withItem(intents, { line: line(n), revision: '1', at, ...change });
};

/** One by one: a watermark overrules what this device said itself, and what it knew of others. */
function oneByOne(it: Service, steps: readonly Step[]): void {
  const own = { read: new Set<string>(), archived: new Set<string>() };
  for (const step of steps)
    if (step.kind === 'item') {
      const { n, kind: _, ...change } = step;
      it.mark({ items: [{ id: `n${n}`, ...change }] });
      for (const field of ['read', 'archived'] as const)
        if (change[field] !== undefined) own[field].add(`n${n}`);
    } else {
      const { axis, upTo, knows } = step;
      it.mark({ [axis]: String(upTo), revision: String(knows) });
      const field = axis === 'readUpTo' ? 'read' : 'archived';
      if (axis !== 'seenUpTo')
        it.mark({
          items: [...own[field]]
            .filter((id) => Number(id.slice(1)) <= upTo)
            .map((id) => ({ id, [field]: true })),
        });
    }
}

const anyOthers = fc.array(
  anyItem.map(({ n, ...change }): Marks => ({ items: [{ id: `n${n}`, ...change }] })),
  { maxLength: 6 },
);

test('what was folded ends as it would have one by one', () => {
  fc.assert(
    fc.property(anyOthers, fc.array(anyStep, { maxLength: 12 }), (others, steps) => {
      const [sent, told] = [service(others), service(others)];
      let intents = steps.reduce(folded, NOTHING);
      for (let request = nextRequest(intents); request !== undefined; request = nextRequest(intents)) {
        sent.mark(request.body);
        intents = without(intents, request.taken);
      }
      oneByOne(told, steps);
      expect(sent.items()).toEqual(told.items());
      expect(sent.watermarks).toEqual(told.watermarks);
    }),
    { numRuns: 1_000 },
  );
});

test('what was said while a request was under way stays, and what the request said goes', () => {
  const at = AT;
  let intents = withItem(NOTHING, { line: line(1), revision: '1', at, read: true, archived: true });
  intents = withItem(intents, { line: line(2), revision: '1', at, read: false });
  const request = nextRequest(intents);
  if (request === undefined) throw new Error('nothing to send');
  intents = withItem(intents, { line: line(1), revision: '1', at, read: false });
  // The unread that is under way will be newer than what this knows.
  intents = withWatermark(intents, { axis: 'readUpTo', upTo: '2', revision: '1', at });
  const left = nextRequest(without(intents, request.taken));
  expect(left?.body).toEqual({ readUpTo: '2', revision: '1', items: [{ id: 'n2', read: true }] });
});

test('watermarks of several revisions are requests of their own, the earliest first, and items come last', () => {
  const at = AT;
  let intents = withItem(NOTHING, { line: line(1), revision: '1', at, archived: false });
  intents = withWatermark(intents, { axis: 'readUpTo', upTo: '3', revision: '10', at });
  intents = withWatermark(intents, { axis: 'seenUpTo', upTo: '4', revision: '9', at });
  intents = withWatermark(intents, { axis: 'readUpTo', upTo: '2', revision: '9', at });
  const bodies: Marks[] = [];
  for (let request = nextRequest(intents); request !== undefined; request = nextRequest(intents)) {
    bodies.push(request.body);
    intents = without(intents, request.taken);
  }
  expect(bodies).toEqual([
    { seenUpTo: '4', revision: '9' },
    { readUpTo: '3', revision: '10', items: [{ id: 'n1', archived: false }] },
  ]);
});

test('a request has 200 items at most', () => {
  let intents = NOTHING;
  for (let n = 1; n <= 450; n += 1)
    intents = withItem(intents, { line: line(n), revision: '1', at: AT, read: true });
  const counts: (number | undefined)[] = [];
  for (let request = nextRequest(intents); request !== undefined; request = nextRequest(intents)) {
    counts.push(request.body.items?.length);
    intents = without(intents, request.taken);
  }
  expect(counts).toEqual([200, 200, 50]);
});
