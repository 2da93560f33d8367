import { Global, Module, type DynamicModule } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import type { DestinationStream } from 'pino';
import { AdminModule } from '../admin/admin.module.ts';
import { AuthModule } from '../auth/auth.module.ts';
import { ChangeFeedModule } from '../cluster/change-feed.module.ts';
import { CONFIG, STOP, type Config } from '../core/config.ts';
import { DatabaseModule } from '../postgres/database.module.ts';
import { DocsModule } from '../openapi/docs.module.ts';
import { HealthModule } from '../health/health.controller.ts';
import { ReceiptsModule } from '../receipts/receipts.module.ts';
import { LogModule } from '../log/log.module.ts';
import { LoggingModule } from '../telemetry/logging.module.ts';
import { MaintenanceModule } from '../maintenance/maintenance.ts';
import { MetricsModule } from '../telemetry/metrics.module.ts';
import { HistoryModule } from '../history/history.controller.ts';
import { PublishingModule } from '../publishing/publish.controller.ts';
import { PrivacyModule } from '../privacy/privacy.controller.ts';
import { ProblemFilter } from '../http/problem.filter.ts';
import { StreamModule } from '../delivery/stream.module.ts';

@Global()
@Module({})
class ConfigModule {}

/** The whole service: every feature once. */
@Module({})
export class AppModule {
  static with(config: Config, stop: AbortSignal, logs?: DestinationStream): DynamicModule {
    const settings: DynamicModule = {
      module: ConfigModule,
      providers: [
        { provide: CONFIG, useValue: config },
        { provide: STOP, useValue: stop },
      ],
      exports: [CONFIG, STOP],
    };
    return {
      module: AppModule,
      imports: [
        settings,
        LoggingModule.writingTo(logs),
        MetricsModule,
        HealthModule,
        DatabaseModule,
        ChangeFeedModule,
        AuthModule,
        LogModule,
        ReceiptsModule,
        PublishingModule,
        HistoryModule,
        StreamModule,
        AdminModule,
        PrivacyModule,
        MaintenanceModule,
        DocsModule,
      ],
      providers: [{ provide: APP_FILTER, useClass: ProblemFilter }],
    };
  }
}
