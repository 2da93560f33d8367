import { Controller, Get, Query, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { parseQuery } from '../http/json-body.ts';
import { ConnectionsStore, type ConnectionRecord } from './connections.store.ts';
import { connectionPlace, readCursor, writeCursor, type Listing } from './history.cursor.ts';
import { connectionsQuerySchema, DEFAULT_LIMIT } from './history.query.ts';

/** Connections that are looked at for one page: more than a page can hold, since in a past period not all of them count. */
const SCANNED = 1_000;

/** Who is connected now, and who was at a given time. */
@Controller('v1/connections')
export class ConnectionsController {
  constructor(private readonly connections: ConnectionsStore) {}

  @Get()
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
    const after = cursor === undefined ? undefined : readCursor(listing, cursor, connectionPlace);
    const found = await this.connections.page(tenantId, user, period, after, SCANNED);
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
