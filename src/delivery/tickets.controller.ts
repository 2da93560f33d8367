import { Body, Controller, Header, Post, Query } from '@nestjs/common';
import type { z } from 'zod';
import { CurrentPrincipal, UserOnly } from '../http/access.decorator.ts';
import { PaidFrom } from '../auth/budgets.ts';
import type { Principal } from '../http/principal.ts';
import { Tickets } from '../auth/tickets.ts';
import { DEFAULT_DEVICE } from '../core/identifiers.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { RouteSettings } from '../http/route-settings.ts';
import { ticketRequestSchema, type ticketSchema } from './tickets.schema.ts';

@Controller('v1/stream/tickets')
export class TicketsController {
  constructor(private readonly tickets: Tickets) {}

  /** A token in its seconds of grace gets none: its stream would have to end before it began. */
  @Post()
  @RouteSettings({ bodyBytes: 1_024 })
  @UserOnly({ clockTolerance: false })
  @PaidFrom('tickets')
  @Header('cache-control', 'no-store')
  async issue(
    @CurrentPrincipal() principal: Principal,
    @Query() query: unknown,
    @Body() body: unknown,
  ): Promise<z.infer<typeof ticketSchema>> {
    refuseQuery(query);
    const { device } = body === undefined ? {} : parseBody(ticketRequestSchema, body);
    const { ticket, expiresAt } = await this.tickets.issue(
      principal,
      principal.device ?? device ?? DEFAULT_DEVICE,
    );
    return { ticket, expiresAt: expiresAt.toISOString() };
  }
}
