import { Controller, Get, Headers, Module, Param, Query, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { Problem } from '../core/errors.ts';
import { Draining } from '../core/config.ts';
import type { TenantId } from '../core/identifiers.ts';
import { parseQuery, refuseQuery } from '../http/json-body.ts';
import { asPosition, type Position } from '../core/position.ts';
import { Describe } from '../http/description.ts';
import { ConnectionsStore, type ConnectionRecord } from './connections.store.ts';
import { DeliveriesStore } from './deliveries.store.ts';
import type { LogEntry, Receipt } from './delivery-status.ts';
import { HistoryService, itemJson, pageJson, type Filters, HistoryStore } from './history.service.ts';
import {
  beginLines,
  DEFAULT_LIMIT,
  idPlace,
  LINES_TYPE,
  type Listing,
  pageQuerySchema,
  positionPlace,
  readCursor,
  timePlace,
  wantsLines,
  writeCursor,
} from '../http/pages.ts';
import { compareKeys, keyOf, timelineOf, TimelineStore } from './timeline.store.ts';
import {
  listNotificationsDescription,
  getNotificationDescription,
  getTimelineDescription,
  listDevicesDescription,
  listConnectionsDescription,
  connectionsQuerySchema,
  historyQuerySchema,
} from './history.openapi.ts';

/** Items of one page of an NDJSON answer. */
const LINES_PER_PAGE = 200;
/** Devices that are read at most for one page of a notification's devices. */
const MAX_DEVICES = 400;
/** Connections that are read for one page: more than it can hold, since of those in a past period not all are shown. */
const CONNECTIONS_READ = 1_000;

/* Where the lists go on. */
const devicePlace = z.tuple([idPlace, idPlace]);
const timelinePlace = z.tuple([z.number().int(), z.number().int(), idPlace, idPlace, idPlace]);

/** Ids of notifications are UUIDs. */
const isNotificationId = (text: string): boolean =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(text);

const JSON_TYPE = 'application/json; charset=utf-8';

/** The routes under /v1/notifications that read: what was published, whom it reached, and when. */
@Controller('v1/notifications')
class HistoryController {
  constructor(
    private readonly history: HistoryService,
    private readonly log: HistoryStore,
    private readonly deliveries: DeliveriesStore,
    private readonly timelines: TimelineStore,
    private readonly draining: Draining,
  ) {}

  @Get()
  @Describe(listNotificationsDescription)
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
    const place = readCursor(listing, cursor, positionPlace);
    const before = place && asPosition(place[0]);
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
  @Describe(getNotificationDescription)
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
  @Describe(getTimelineDescription)
  @RequireScope('history:read', 'notifications:publish')
  async timeline(
    @CurrentPrincipal() principal: Principal,
    @Param('id') id: string,
    @Query() rawQuery: unknown,
    @Res({ passthrough: true }) reply: FastifyReply,
  ) {
    const listing: Listing = [principal.tenantId, 'timeline', id.toLowerCase()];
    const { limit, after } = pageAskedFor(listing, rawQuery, timelinePlace);
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
  @Describe(listDevicesDescription)
  @RequireScope('history:read', 'notifications:publish')
  async devices(
    @CurrentPrincipal() principal: Principal,
    @Param('id') id: string,
    @Query() rawQuery: unknown,
    @Res({ passthrough: true }) reply: FastifyReply,
  ) {
    const listing: Listing = [principal.tenantId, 'devices', id.toLowerCase()];
    const page = pageAskedFor(listing, rawQuery, devicePlace);
    const { limit } = page;
    let after: readonly [user: string, device: string] = page.after ?? ['', ''];
    const entry = await this.#find(principal, id);
    const items: Receipt[] = [];
    let more = true;
    // Most devices have received a broadcast, so as many as the page holds are read first, and more only if some of them have not.
    for (const devices of [limit, MAX_DEVICES - limit]) {
      if (!more || items.length >= limit) break;
      const { receipts, reached } = await this.deliveries.devices(principal.tenantId, entry, after, devices);
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

  /** The entry, for operators and for its publisher. Throws Problem `not_found` for anybody else, as if it did not exist. */
  async #find({ tenantId, subject, scopes }: Principal, id: string): Promise<LogEntry> {
    const entry = isNotificationId(id) ? await this.log.find(tenantId, id) : undefined;
    if (entry !== undefined && (scopes.has('history:read') || entry.publisher === subject)) return entry;
    throw new Problem('not_found', 'There is no notification with this id.');
  }

  /** The selection as lines of JSON, read page by page. Throws Problem `draining` when the node shuts down. */
  async *#lines(tenantId: TenantId, filters: Filters, before: Position | undefined, limit: number) {
    let next = before;
    let left = limit;
    do {
      if (this.draining.active)
        throw new Problem('draining', 'This node is shutting down.', { retryAfter: 1 });
      const page = await this.history.page(tenantId, filters, next, Math.min(left, LINES_PER_PAGE));
      left -= page.items.length;
      next = page.next;
      yield page.items.map((item) => `${itemJson(item)}\n`).join('');
    } while (next !== undefined && left > 0);
  }
}

/** How long a page of a list about one notification is to be, and behind which place it begins. */
function pageAskedFor<Place extends z.ZodType>(listing: Listing, rawQuery: unknown, place: Place) {
  const { limit = DEFAULT_LIMIT, cursor } = parseQuery(pageQuerySchema, rawQuery);
  return { limit, after: readCursor(listing, cursor, place) };
}

/** Who is connected now, and who was at a given time. */
@Controller('v1/connections')
class ConnectionsController {
  constructor(private readonly connections: ConnectionsStore) {}

  @Get()
  @Describe(listConnectionsDescription)
  @RequireScope('history:read')
  async list(
    @CurrentPrincipal() { tenantId }: Principal,
    @Query() rawQuery: unknown,
    @Res({ passthrough: true }) reply: FastifyReply,
  ) {
    const {
      user,
      since,
      until,
      limit = DEFAULT_LIMIT,
      cursor,
    } = parseQuery(connectionsQuerySchema, rawQuery);
    const listing: Listing = [tenantId, 'connections', user, since, until];
    const period = since === undefined && until === undefined ? 'now' : { since, until };
    const after = readCursor(listing, cursor, timePlace);
    const found = await this.connections.page(tenantId, user, period, after, CONNECTIONS_READ);
    const items = found.items.slice(0, limit);
    const next = found.items.length > limit ? items.at(-1)?.place : found.reached;
    reply.header('cache-control', 'no-store');
    return { items: items.map(itemOf), nextCursor: next === undefined ? null : writeCursor(listing, next) };
  }
}

function itemOf({
  connectionId,
  user,
  device,
  node,
  since,
  until,
  position,
  reason,
  topics,
}: ConnectionRecord) {
  return { connectionId, user, device, node, since, until, position: String(position), reason, topics };
}

/** What reached whom, and when; who is connected, and who was. */
@Module({
  controllers: [HistoryController, ConnectionsController],
  providers: [HistoryService, HistoryStore, DeliveriesStore, TimelineStore, ConnectionsStore],
  exports: [HistoryService, ConnectionsStore],
})
export class HistoryModule {}
