import { Body, Controller, Get, Header, HttpCode, Module, Post, Query } from '@nestjs/common';
import { PaidFrom } from '../auth/budgets.ts';
import { createdAt, asPosition } from '../core/position.ts';
import { CurrentPrincipal, type Principal, RouteSettings, UserOnly } from '../http/access.ts';
import { Describe } from '../http/description.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import { DEFAULT_LIMIT, positionPlace, readCursor, writeCursor, type Listing } from '../http/pages.ts';
import { PartitionsModule } from '../log/partitions.ts';
import { Inbox } from './inbox.ts';
import {
  countInboxDescription,
  inboxQuerySchema,
  listInboxDescription,
  markInboxDescription,
  marksSchema,
} from './inbox.openapi.ts';
import { InboxStore, type InboxItem, type InboxReader } from './inbox.store.ts';
import { snapshotJson } from './snapshot.ts';

const readerOf = ({ subject: user, topics }: Principal): InboxReader => ({ user, topics });

/** What a user has: the list, the numbers, and what the user says of it. */
@Controller('v1/inbox')
class InboxController {
  constructor(private readonly inbox: Inbox) {}

  @Get()
  @Describe(listInboxDescription)
  @UserOnly()
  @PaidFrom('inbox calls')
  @Header('content-type', 'application/json; charset=utf-8')
  async list(@CurrentPrincipal() principal: Principal, @Query() rawQuery: unknown): Promise<string> {
    const { filter, type, limit = DEFAULT_LIMIT, cursor } = parseQuery(inboxQuerySchema, rawQuery);
    const { tenantId, subject } = principal;
    const listing: Listing = [tenantId, 'inbox', subject, filter, type];
    const [before] = readCursor(listing, cursor, positionPlace) ?? [Number.MAX_SAFE_INTEGER];
    const { items, next, snapshot } = await this.inbox.list(tenantId, readerOf(principal), {
      filter,
      type,
      before: asPosition(before),
      limit,
    });
    const nextCursor = next === undefined ? null : writeCursor(listing, [next]);
    const rest = JSON.stringify({ nextCursor, ...snapshotJson(snapshot) });
    return `{"items":[${items.map(itemJson).join(',')}],${rest.slice(1)}`;
  }

  @Get('counts')
  @Describe(countInboxDescription)
  @UserOnly()
  @PaidFrom('inbox calls')
  async counts(@CurrentPrincipal() principal: Principal, @Query() query: unknown) {
    refuseQuery(query);
    return snapshotJson(await this.inbox.snapshot(principal.tenantId, readerOf(principal)));
  }

  /** Answers after the commit. */
  @Post('marks')
  @Describe(markInboxDescription)
  @RouteSettings({ bodyBytes: 32 * 1_024 })
  @HttpCode(200)
  @UserOnly()
  @PaidFrom('inbox calls')
  async mark(@CurrentPrincipal() principal: Principal, @Query() query: unknown, @Body() body: unknown) {
    refuseQuery(query);
    const { seenUpTo, readUpTo, archivedUpTo, items = [], revision } = parseBody(marksSchema, body);
    const { snapshot, unknown } = await this.inbox.mark(principal.tenantId, {
      ...readerOf(principal),
      seenUpTo,
      readUpTo,
      archivedUpTo,
      items,
      revision,
    });
    return { ...snapshotJson(snapshot), unknown };
  }
}

/** `data` goes in as text: stringified again it would lose the publisher's digits and escapes. */
function itemJson(item: InboxItem): string {
  const { id, position, type, to, data, expiresAt, seen, readAt, archivedAt } = item;
  const before = JSON.stringify({ id, position: String(position), type, to });
  const after = JSON.stringify({ createdAt: createdAt(position), expiresAt, seen, readAt, archivedAt });
  return `${before.slice(0, -1)},"data":${data},${after.slice(1)}`;
}

@Module({
  imports: [PartitionsModule],
  controllers: [InboxController],
  providers: [Inbox, InboxStore],
  exports: [Inbox, InboxStore],
})
export class InboxModule {}
