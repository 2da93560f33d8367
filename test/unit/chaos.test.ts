import { beforeEach, describe, expect, test } from '@jest/globals';
import { positionOfTime } from '../../src/core/position.ts';
import { Books, type DeviceBook, type Finding, type Reading, type To } from '../chaos/suite/books.ts';
import { schedule } from '../chaos/suite/schedule.ts';

/* The chaos suite: a seed is a schedule, and its books find what is wrong. */

function first(seed: number): unknown[] {
  const troubles = schedule(seed, 3, 2, 'nats');
  return Array.from({ length: 100 }, () => troubles.next().value);
}

test('the same seed is the same schedule, another one is another', () => {
  expect(first(7)).toEqual(first(7));
  expect(first(7)).not.toEqual(first(8));
});

test('no kind of fault comes again before all have come', () => {
  const faults = schedule(1, 3, 2, 'postgres');
  const kinds: string[] = [];
  while (kinds.length < 16) kinds.push(...faults.next().value.faults.map(({ kind }) => kind));
  expect(new Set(kinds.slice(0, 16)).size).toBe(16);
});

describe('the books', () => {
  const now = Date.now();
  const me = { user: 'ann' };
  let books: Books;
  let book: DeviceBook;
  let reading: Reading;
  let positions: number[];
  beforeEach(() => {
    books = new Books();
    book = books.open({ tenant: 'acme', user: 'ann', device: 'phone', topics: ['news'] });
    positions = [1, 2, 3].map((n) => positionOfTime(now) + n);
    books.answered(
      positions.map((position, index) => ({
        tenant: 'acme',
        n: index + 1,
        to: me,
        id: `id-${index + 1}`,
        position,
        expires: false,
      })),
    );
    reading = connect('undelivered', 0);
  });

  function connect(resume: string, from: number, asked?: number, confirmedUpTo = 0): Reading {
    const opened: Reading = {
      openedAt: now,
      from: undefined,
      upTo: 0,
      got: [],
      inbox: undefined,
      counting: [],
    };
    book.readings.push(opened);
    book.began(opened, resume, from, asked, confirmedUpTo);
    return opened;
  }

  function show(n: number, { to = me, tenant = 'acme', expiresAt = null }: Partial<Shows> = {}): void {
    const data = { tenant, n };
    book.shown(reading, positions[n - 1] ?? 0, { id: `id-${n}`, to, data, expiresAt });
  }
  interface Shows {
    to: To;
    tenant: string;
    expiresAt: string | null;
  }

  function found(): Finding[] {
    books.balance();
    return [...books.found.keys()];
  }

  test('balance when everything came in order', () => {
    for (const n of [1, 2, 3]) show(n);
    expect(found()).toEqual([]);
  });

  test('balance when one connection goes on where the other has ended', () => {
    show(1);
    reading = connect('exact', positions[0] ?? 0, positions[0]);
    for (const n of [2, 3]) show(n);
    expect(found()).toEqual([]);
  });

  test.each<[string, Finding, () => void]>([
    ['the last never comes', 'lost', () => [1, 2].forEach((n) => show(n))],
    [
      'a connection leaves one out, though another has it',
      'lost',
      () => {
        for (const n of [1, 3]) show(n);
        reading = connect('undelivered', 0);
        for (const n of [1, 2, 3]) show(n);
      },
    ],
    [
      'it goes on elsewhere than where it was asked to',
      'lost',
      () => {
        for (const n of [1, 2, 3]) show(n);
        connect('reset', 0, positions[2]);
      },
    ],
    [
      'it begins beyond what it has confirmed',
      'lost',
      () => {
        for (const n of [1, 2, 3]) show(n);
        connect('undelivered', positions[0] ?? 0);
      },
    ],
    ['one comes after a later one', 'outOfOrder', () => [1, 3, 2].forEach((n) => show(n))],
    [
      'one comes behind an id that was passed',
      'outOfOrder',
      () => {
        show(1);
        book.moved(reading, positions[2] ?? 0);
        for (const n of [2, 3]) show(n);
      },
    ],
    ['one comes twice', 'doubled', () => [1, 2, 2, 3].forEach((n) => show(n))],
    ['one comes again later', 'doubled', () => [1, 2, 3, 1].forEach((n) => show(n))],
    [
      'one had expired',
      'expired',
      () => {
        for (const n of [1, 2]) show(n);
        show(3, { expiresAt: new Date(now).toISOString() });
      },
    ],
    [
      'one is for another user',
      'foreign',
      () => {
        for (const n of [1, 2]) show(n);
        show(3, { to: { user: 'bob' } });
      },
    ],
    [
      'one is for a topic that it does not have',
      'foreign',
      () => {
        for (const n of [1, 2]) show(n);
        show(3, { to: { topic: 'sport' } });
      },
    ],
    [
      'one is of another tenant',
      'foreign',
      () => {
        for (const n of [1, 2]) show(n);
        show(3, { tenant: 'globex' });
      },
    ],
    [
      'it begins before what was confirmed',
      'forgotten',
      () => {
        for (const n of [1, 2, 3]) show(n);
        connect('undelivered', 0, undefined, positions[1]);
      },
    ],
    [
      'one is stored in another place than was answered',
      'storedTwice',
      () => {
        for (const n of [1, 2, 3]) show(n);
        books.place(1, 'id-9', 9);
      },
    ],
  ])('do not balance when %s', (_, finding, happens) => {
    happens();
    expect(found()).toContain(finding);
  });

  test('do not ask for what a new device need not get, since another one of its user has it', () => {
    for (const n of [1, 2, 3]) show(n);
    book.triedUpTo = positions[1] ?? 0;
    book = books.open({ tenant: 'acme', user: 'ann', device: 'laptop', topics: ['news'] });
    reading = connect('undelivered', positions[1] ?? 0);
    show(3);
    expect(found()).toEqual([]);
  });

  test('know for how long no publish of a tenant was answered', () => {
    books.answeredAt.set('acme', [10, 20, 90, 100]);
    books.answeredAt.set('globex', [95]);
    expect(books.unavailable(15, 100)).toBe(80);
    expect(books.unavailable(95, 130)).toBe(35);
  });
});
