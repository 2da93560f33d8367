import { Body, Controller, HttpCode, Post, Query } from '@nestjs/common';
import { CurrentPrincipal, UserOnly } from '../http/access.decorator.ts';
import { PaidFrom } from '../auth/budgets.ts';
import type { Principal } from '../http/principal.ts';
import { Problem } from '../core/errors.ts';
import { DEFAULT_DEVICE } from '../core/identifiers.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { RouteSettings } from '../http/route-settings.ts';
import { ackSchema } from './acks.schema.ts';
import { Acknowledgements } from './acks.ts';

@Controller('v1/acks')
export class AcksController {
  constructor(private readonly acknowledgements: Acknowledgements) {}

  /** Answers after the commit. */
  @Post()
  @RouteSettings({ bodyBytes: 1_024 })
  @HttpCode(204)
  @UserOnly()
  @PaidFrom('acknowledgements')
  async acknowledge(
    @CurrentPrincipal() principal: Principal,
    @Query() query: unknown,
    @Body() body: unknown,
  ): Promise<void> {
    refuseQuery(query);
    const { upTo, device: named } = parseBody(ackSchema, body);
    const { tenantId, subject: user, topics } = principal;
    const device = principal.device ?? named ?? DEFAULT_DEVICE;
    const result = await this.acknowledgements.acknowledge(tenantId, { user, device, upTo, topics });
    if (result === 'ahead')
      throw new Problem('position_unknown', 'Nothing has been published at this position yet.', {
        errors: [{ pointer: '/upTo', detail: 'is ahead of the log' }],
      });
    if (result === 'device_unknown')
      throw new Problem('device_unknown', `The device ${device} of this user has never opened a stream.`);
  }
}
