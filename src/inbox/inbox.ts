import { Injectable } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import { asPosition, type Position } from '../core/position.ts';
import { nowBeingErased } from '../postgres/erased.ts';
import { repeatedOnLoss } from '../postgres/errors.ts';
import { Metrics } from '../telemetry/metrics.ts';
import {
  InboxStore,
  type Ahead,
  type InboxPage,
  type InboxReader,
  type InboxSelection,
  type Marked,
  type Marking,
  type Stored,
} from './inbox.store.ts';
import type { Snapshot } from './snapshot.ts';

interface SnapshotRequest extends InboxReader {
  /** The head of the log when the user's stream was opened. */
  readonly head?: Position | undefined;
}

/** Something changed in the inboxes of these users. */
export interface InboxChange {
  readonly tenantId: TenantId;
  readonly users: readonly UserId[];
}

/** What a marking is answered. */
export interface MarkAnswer {
  /** As it is after the marking. */
  readonly snapshot: Snapshot;
  /** Ids that are not in this inbox. */
  readonly unknown: readonly string[];
}

type Answered = Ahead | 'being_erased' | MarkAnswer;

/** Readers that one statement counts for; `collectsMs`: for how long a crowd is collected for one, in ms. */
const COUNTED_TOGETHER = { atOnce: 300, collectsMs: 500 };
/** Markings that one transaction stores. */
const MARKED_TOGETHER = { atOnce: 256 };
/** Markings of one tenant that may wait on this node. */
const MOST_WAITING = 10_000;

/** What users have seen, read and archived. Whatever tells of it has it from the database, after the commit that it tells of. */
@Injectable()
export class Inbox {
  readonly #changed = new Subject<InboxChange>();
  readonly #snapshots = new KeyedBatcher<TenantId, SnapshotRequest, Snapshot | 'being_erased'>(
    (tenantId, readers) => this.#count(tenantId, readers),
    COUNTED_TOGETHER,
  );
  readonly #markings = new KeyedBatcher<TenantId, Marking, Answered>(
    (tenantId, markings) => this.#mark(tenantId, markings),
    MARKED_TOGETHER,
  );

  /** What this node has committed. */
  readonly changed: Observable<InboxChange> = this.#changed.asObservable();

  constructor(
    private readonly store: InboxStore,
    private readonly metrics: Metrics,
  ) {}

  /**
   * The inbox in numbers, as it is after this call. One that there is not yet begins.
   * @throws Problem `being_erased` (503), or the database's error
   */
  async snapshot(tenantId: TenantId, reader: SnapshotRequest): Promise<Snapshot> {
    const snapshot = await this.#snapshots.request(tenantId, reader);
    if (snapshot === 'being_erased') throw nowBeingErased();
    return snapshot;
  }

  /**
   * A page of the list, newest first, and the numbers. These are read first: what the list shows is then never older than
   * the revision beside it, and goes no further than their position.
   * @throws Problem `being_erased` (503), or the database's error
   */
  async list(
    tenantId: TenantId,
    reader: InboxReader,
    selection: InboxSelection,
  ): Promise<InboxPage & { snapshot: Snapshot }> {
    const snapshot = await this.snapshot(tenantId, reader);
    const before = asPosition(Math.min(selection.before, snapshot.position + 1));
    return { ...(await this.store.list(tenantId, reader, { ...selection, before })), snapshot };
  }

  /**
   * Stores what a user says. On disk when the promise resolves, and the numbers are those after it.
   * @throws Problem `position_unknown` (400), `being_erased` or `overloaded` (503), or the database's error
   */
  async mark(tenantId: TenantId, marking: Marking): Promise<MarkAnswer> {
    if (this.#markings.pending(tenantId) >= MOST_WAITING)
      throw new Problem('overloaded', 'Too many marks wait to be stored on this node.', { retryAfter: 1 });
    const answer = await this.#markings.request(tenantId, marking);
    if (answer === 'being_erased') throw nowBeingErased();
    if ('ahead' in answer)
      throw new Problem('position_unknown', 'Nothing has been published at this position yet.', {
        errors: answer.ahead.map((name) => ({
          pointer: `/${name}`,
          detail: 'is no position that was shown',
        })),
      });
    return answer;
  }

  async #count(
    tenantId: TenantId,
    readers: readonly SnapshotRequest[],
  ): Promise<(Snapshot | 'being_erased')[]> {
    const found = await this.store.snapshots(tenantId, readers);
    const missing = readers.filter((_, index) => found[index] === undefined);
    if (missing.length > 0) await this.store.begin(tenantId, missing);
    const begun = missing.length > 0 ? await this.store.snapshots(tenantId, missing) : [];
    const next = begun.values();
    return found.map((snapshot) => snapshot ?? next.next().value ?? 'being_erased');
  }

  /** One transaction for all of them, and behind it one statement that counts. */
  async #mark(tenantId: TenantId, markings: readonly Marking[]): Promise<Answered[]> {
    const marked = await this.#store(tenantId, markings);
    const stored = markings.flatMap((marking, n) => {
      const result = marked[n];
      return isStored(result) ? [{ n, marking, ...result }] : [];
    });
    this.metrics.inboxMarkings.inc(stored.length);
    const users = [...new Set(stored.filter(({ changed }) => changed).map(({ marking: { user } }) => user))];
    if (users.length > 0) this.#changed.next({ tenantId, users });
    const answers: Answered[] = marked.map((result) =>
      typeof result === 'object' && 'ahead' in result ? result : 'being_erased',
    );
    if (stored.length === 0) return answers;
    const snapshots = await this.#count(
      tenantId,
      stored.map(({ marking }) => marking),
    );
    for (const [index, { n, unknown }] of stored.entries()) {
      const snapshot = snapshots[index];
      // Erased since.
      if (typeof snapshot === 'object') answers[n] = { snapshot, unknown };
    }
    return answers;
  }

  async #store(tenantId: TenantId, markings: readonly Marking[]): Promise<(Marked | 'no_inbox')[]> {
    const results = await this.#storeOrRepeat(tenantId, markings);
    const without = markings.filter((_, index) => results[index] === 'no_inbox');
    if (without.length === 0) return results;
    await this.store.begin(tenantId, without);
    const again = (await this.#storeOrRepeat(tenantId, without)).values();
    return results.map((result) => (result === 'no_inbox' ? (again.next().value ?? result) : result));
  }

  async #storeOrRepeat(tenantId: TenantId, markings: readonly Marking[]): Promise<(Marked | 'no_inbox')[]> {
    return await repeatedOnLoss(async (again) => {
      const results = await this.store.mark(tenantId, markings);
      // The first time may have changed what the second found so already.
      return results.map((result) => (again && isStored(result) ? { ...result, changed: true } : result));
    });
  }
}

const isStored = (result: Marked | 'no_inbox' | undefined): result is Stored =>
  typeof result === 'object' && 'changed' in result;
