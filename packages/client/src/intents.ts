import type { Change, InboxItem, Marks } from './wire.ts';

/*
 * What the user did and the service has not been told, or has not told back: folded, so that a day without a network is a request
 * or two. Pure: how lines look with it is worked out anew from what the service said, each time.
 */

/** What is known of a notification in the inbox. */
export type Line = Pick<InboxItem, 'id' | 'position' | 'expiresAt' | 'seen' | 'readAt' | 'archivedAt'>;

export type Axis = 'seenUpTo' | 'readUpTo' | 'archivedUpTo';

/** All up to a position was seen, read or archived. */
export interface Watermark {
  readonly axis: Axis;
  readonly upTo: string;
  /** The latest that the client knew when the user acted. */
  readonly revision: string;
  /** When that was: RFC 3339. */
  readonly at: string;
}

/** What was said of one notification. */
export interface ItemIntent {
  /** As the service had it in `revision`. Position '0': it is not known. */
  readonly line: Line;
  readonly revision: string;
  readonly at: string;
  readonly read?: boolean;
  readonly archived?: boolean;
}

/** Watermarks hold before items, as they are sent. */
export interface Intents {
  /** Of one axis the further one knows less. */
  readonly marks: readonly Watermark[];
  /** By id of the notification. */
  readonly items: Readonly<Record<string, ItemIntent>>;
}

export const NOTHING: Intents = { marks: [], items: {} };

const ITEM_FIELD = { seenUpTo: undefined, readUpTo: 'read', archivedUpTo: 'archived' } as const;

const isUpTo = (position: string, upTo: string): boolean => Number(position) <= Number(upTo);

/** Of one notification the last word counts, on each axis by itself. */
export const withItem = (intents: Intents, intent: ItemIntent): Intents => ({
  ...intents,
  items: { ...intents.items, [intent.line.id]: { ...intents.items[intent.line.id], ...intent } },
});

/**
 * What was said before of single notifications that it covers says the same from now on: it is sent behind the watermark and would
 * undo it, and the service may have it already, as of a revision that the watermark does not overrule.
 */
export function withWatermark({ marks, items }: Intents, mark: Watermark): Intents {
  const field = ITEM_FIELD[mark.axis];
  const covers = (other: Watermark): boolean =>
    other.axis === mark.axis && isUpTo(other.upTo, mark.upTo) && isUpTo(other.revision, mark.revision);
  const isCovered = marks.some(
    (other) =>
      other.axis === mark.axis && isUpTo(mark.upTo, other.upTo) && isUpTo(mark.revision, other.revision),
  );
  return {
    marks: isCovered ? marks : [...marks.filter((other) => !covers(other)), mark],
    items: Object.fromEntries(
      Object.entries(items).map(([id, item]) => [
        id,
        field !== undefined && item[field] === false && isUpTo(item.line.position, mark.upTo)
          ? { ...item, [field]: true }
          : item,
      ]),
    ),
  };
}

/** The service takes no more of them at once. */
const MOST_ITEMS = 200;

export interface MarksRequest {
  readonly body: Marks;
  /** What of the intents it says. */
  readonly taken: Intents;
}

/** The next to be sent. Watermarks of one revision go together, the earliest first, and items with the last of them. */
export function nextRequest({ marks, items }: Intents): MarksRequest | undefined {
  const revision = marks.reduce<string | undefined>(
    (least, mark) => (least === undefined || isUpTo(mark.revision, least) ? mark.revision : least),
    undefined,
  );
  const together = marks.filter((mark) => mark.revision === revision);
  const some = together.length < marks.length ? [] : Object.entries(items).slice(0, MOST_ITEMS);
  if (together.length + some.length === 0) return undefined;
  return {
    body: {
      ...Object.fromEntries(together.map(({ axis, upTo }) => [axis, upTo])),
      ...(revision === undefined || revision === '' ? {} : { revision }),
      ...(some.length === 0
        ? {}
        : {
            items: some.map(([id, { read, archived }]): Change => ({
              id,
              ...(read === undefined ? {} : { read }),
              ...(archived === undefined ? {} : { archived }),
            })),
          }),
    },
    taken: { marks: together, items: Object.fromEntries(some) },
  };
}

/** What is left once `taken` is stored. What was said anew meanwhile stays. */
export function without({ marks, items }: Intents, taken: Intents): Intents {
  const left: Record<string, ItemIntent> = {};
  for (const [id, { read, archived, ...rest }] of Object.entries(items)) {
    const sent = taken.items[id];
    const item: ItemIntent = {
      ...rest,
      ...(read === undefined || read === sent?.read ? {} : { read }),
      ...(archived === undefined || archived === sent?.archived ? {} : { archived }),
    };
    if (item.read !== undefined || item.archived !== undefined) left[id] = item;
  }
  const isTaken = ({ axis, upTo, revision }: Watermark): boolean =>
    taken.marks.some((sent) => sent.axis === axis && sent.upTo === upTo && sent.revision === revision);
  return { marks: marks.filter((mark) => !isTaken(mark)), items: left };
}

/** The line once that was said of it. */
export function marked<Item extends Line>(
  line: Item,
  { seen, read, archived }: { readonly seen?: boolean; readonly read?: boolean; readonly archived?: boolean },
  at: string,
): Item {
  const next = {
    seen: line.seen || seen === true || read !== undefined,
    readAt: read === undefined ? line.readAt : read ? (line.readAt ?? at) : null,
    archivedAt: archived === undefined ? line.archivedAt : archived ? (line.archivedAt ?? at) : null,
  };
  const isSame =
    next.seen === line.seen && next.readAt === line.readAt && next.archivedAt === line.archivedAt;
  // Who compares by identity sees that nothing has changed.
  return isSame ? line : { ...line, ...next };
}

/** The line once these watermarks have moved. */
export function covered<Item extends Line>(
  line: Item,
  marks: { readonly [axis in Axis]?: string },
  at: string,
): Item {
  const is = (upTo = '0'): boolean => isUpTo(line.position, upTo);
  return marked(
    line,
    {
      seen: is(marks.seenUpTo),
      ...(is(marks.readUpTo) ? { read: true } : {}),
      ...(is(marks.archivedUpTo) ? { archived: true } : {}),
    },
    at,
  );
}

/** The line as the user left it. */
export function overlaid<Item extends Line>(line: Item, layers: readonly Intents[]): Item {
  let over = line;
  for (const { marks, items } of layers) {
    for (const { axis, upTo, at } of marks) over = covered(over, { [axis]: upTo }, at);
    const item = items[line.id];
    if (item !== undefined) over = marked(over, item, item.at);
  }
  return over;
}
