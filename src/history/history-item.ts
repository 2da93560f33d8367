import { createdAt } from '../core/position.ts';
import type { Counts, LogEntry, Receipt, Status } from './delivery-status.ts';

/** A notification with what became of it. Single users' have receipts, topics and everyone have counts. */
export interface HistoryItem {
  readonly entry: LogEntry;
  readonly status: Status;
  readonly outcome: { readonly devices: readonly Receipt[] } | { readonly counts: Counts };
}

/**
 * The item as JSON text. It is put together by hand around `data`, which is passed on as it was published: through
 * JSON.parse and JSON.stringify its numbers would lose digits and its objects their doubles.
 */
export function itemJson({ entry, status, outcome }: HistoryItem): string {
  const { id, position, type, to, data, publisher, expiresAt } = entry;
  const before = JSON.stringify({ id, position: String(position), type, to });
  const after = JSON.stringify({
    publisher,
    createdAt: createdAt(position),
    expiresAt: expiresAt?.toISOString() ?? null,
    status,
    ...outcome,
  });
  return `${before.slice(0, -1)},"data":${data},${after.slice(1)}`;
}

export const pageJson = (items: readonly HistoryItem[], nextCursor: string | null): string =>
  `{"items":[${items.map(itemJson).join(',')}],"nextCursor":${JSON.stringify(nextCursor)}}`;
