import { Controller, Get, Headers, Param, Query, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { Problem } from '../core/errors.ts';
import { Draining } from '../core/draining.ts';
import { parseQuery, refuseQuery } from '../http/json-body.ts';
import { asPosition, type Position } from '../core/position.ts';
import { DeliveriesStore } from './deliveries.store.ts';
import type { LogEntry, Receipt } from './delivery-status.ts';
import { beginLines, LINES_TYPE, wantsLines } from './export.ts';
import {
  devicePlace,
  positionPlace,
  readCursor,
  timelinePlace,
  writeCursor,
  type Listing,
} from './history.cursor.ts';
import { itemJson, pageJson } from './history-item.ts';
import { DEFAULT_LIMIT, historyQuerySchema, isNotificationId, pageQuerySchema } from './history.query.ts';
import { HistoryService, type Filters } from './history.service.ts';
import { HistoryStore } from './history.store.ts';
import { compareKeys, keyOf, timelineOf } from './timeline.ts';
import { TimelineStore } from './timeline.store.ts';

const MOST_PER_PAGE = 200;
/** Devices that are looked at for one page of a notification's devices. */
const MOST_DEVICES = 400;

const JSON_TYPE = 'application/json; charset=utf-8';

/** Looks back: what was published, whom it reached, and when. */
@Controller('v1/notifications')
export class HistoryController {
  constructor(
    private readonly history: HistoryService,
    private readonly log: HistoryStore,
    private readonly receipts: DeliveriesStore,
    private readonly timelines: TimelineStore,
    private readonly draining: Draining,
  ) {}

  @Get()
  @RequireScope('history:read')
  async list(
    @CurrentPrincipal() { tenantId }: Principal,
    @Query() rawQuery: unknown,
    @Headers('accept') accept: string | undefined,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const { limit, cursor, ...filters } = parseQuery(historyQuerySchema, rawQuery);
    const { user, topic, type, status, since, until } = filters;
    const listing: Listing = [tenantId, 'notifications', user, topic, type, status, since, until];
    const before =
      cursor === undefined ? undefined : asPosition(readCursor(listing, cursor, positionPlace)[0]);
    void reply.headers({ 'cache-control': 'no-store', vary: 'Origin, Accept' });
    if (!wantsLines(accept)) {
      const { items, next } = await this.history.page(tenantId, filters, before, limit ?? DEFAULT_LIMIT);
      const nextCursor = next === undefined ? null : writeCursor(listing, [next]);
      await reply.type(JSON_TYPE).send(pageJson(items, nextCursor));
      return;
    }
    const lines = await beginLines(this.#lines(tenantId, filters, before, limit ?? Infinity));
    await reply.type(LINES_TYPE).send(lines);
  }

  @Get(':id')
  @RequireScope('history:read', 'notifications:publish')
  async one(
    @CurrentPrincipal() principal: Principal,
    @Param('id') id: string,
    @Query() query: unknown,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    refuseQuery(query);
    const item = await this.history.item(principal.tenantId, await this.#find(principal, id));
    await reply.header('cache-control', 'no-store').type(JSON_TYPE).send(itemJson(item));
  }

  @Get(':id/timeline')
  @RequireScope('history:read', 'notifications:publish')
  async timeline(
    @CurrentPrincipal() principal: Principal,
    @Param('id') id: string,
    @Query() rawQuery: unknown,
    @Res({ passthrough: true }) reply: FastifyReply,
  ) {
    const { limit = DEFAULT_LIMIT, cursor } = parseQuery(pageQuerySchema, rawQuery);
    const listing: Listing = [principal.tenantId, 'timeline', id.toLowerCase()];
    const after = cursor === undefined ? undefined : readCursor(listing, cursor, timelinePlace);
    const entry = await this.#find(principal, id);
    const deliveries = await this.timelines.deliveries(principal.tenantId, entry);
    const entries = timelineOf(entry, deliveries);
    const rest =
      after === undefined ? entries : entries.filter((each) => compareKeys(keyOf(each), after) > 0);
    const items = rest.slice(0, limit);
    const last = items.at(-1);
    const nextCursor = rest.length > limit && last !== undefined ? writeCursor(listing, keyOf(last)) : null;
    reply.header('cache-control', 'no-store');
    return { items, nextCursor, more: deliveries.more };
  }

  @Get(':id/devices')
  @RequireScope('history:read', 'notifications:publish')
  async devices(
    @CurrentPrincipal() principal: Principal,
    @Param('id') id: string,
    @Query() rawQuery: unknown,
    @Res({ passthrough: true }) reply: FastifyReply,
  ) {
    const { limit = DEFAULT_LIMIT, cursor } = parseQuery(pageQuerySchema, rawQuery);
    const listing: Listing = [principal.tenantId, 'devices', id.toLowerCase()];
    let after = cursor === undefined ? (['', ''] as const) : readCursor(listing, cursor, devicePlace);
    const entry = await this.#find(principal, id);
    const items: Receipt[] = [];
    let more = true;
    // In most broadcasts the first devices have it; only where they do not, more are looked at.
    for (const look of [limit, MOST_DEVICES - limit]) {
      if (!more || items.length >= limit) break;
      const { receipts, reached } = await this.receipts.devices(principal.tenantId, entry, after, look);
      const taken = receipts.slice(0, limit - items.length);
      items.push(...taken);
      const last = taken.length < receipts.length ? taken.at(-1) : reached;
      more = last !== undefined;
      if (last !== undefined) after = [last.user, last.device];
    }
    const nextCursor = more ? writeCursor(listing, after) : null;
    reply.header('cache-control', 'no-store');
    return { items, nextCursor };
  }

  /** The entry, for operators and for who published it; for everybody else it is not there. */
  async #find({ tenantId, subject, scopes }: Principal, id: string): Promise<LogEntry> {
    const entry = isNotificationId(id) ? await this.log.find(tenantId, id) : undefined;
    if (entry !== undefined && (scopes.has('history:read') || entry.publisher === subject)) return entry;
    throw new Problem('not_found', 'There is no notification with this id.');
  }

  async *#lines(
    tenantId: Principal['tenantId'],
    filters: Filters,
    before: Position | undefined,
    most: number,
  ) {
    let next = before;
    let left = most;
    do {
      if (this.draining.active)
        throw new Problem('draining', 'This node is shutting down.', { retryAfter: 1 });
      const page = await this.history.page(tenantId, filters, next, Math.min(left, MOST_PER_PAGE));
      left -= page.items.length;
      next = page.next;
      yield page.items.map((item) => `${itemJson(item)}\n`).join('');
    } while (next !== undefined && left > 0);
  }
}
