import { Global, Module, type DynamicModule } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import type { DestinationStream } from 'pino';
import { AdminModule } from './admin/admin.module.ts';
import { AuthModule } from './auth/auth.module.ts';
import { ChangesModule } from './changes/changes.module.ts';
import { CONFIG, STOP, type Config } from './config.ts';
import { DatabaseModule } from './database/database.module.ts';
import { DocsModule } from './docs/docs.module.ts';
import { HealthModule } from './health/health.module.ts';
import { LedgerModule } from './ledger/ledger.module.ts';
import { LogModule } from './log/log.module.ts';
import { LoggingModule } from './logging/logging.module.ts';
import { MaintenanceModule } from './maintenance/maintenance.module.ts';
import { MetricsModule } from './metrics/metrics.module.ts';
import { HistoryModule } from './notifications/history.module.ts';
import { NotificationsModule } from './notifications/notifications.module.ts';
import { PrivacyModule } from './privacy/privacy.module.ts';
import { ProblemFilter } from './problem.filter.ts';
import { StreamModule } from './stream/stream.module.ts';

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
        ChangesModule,
        AuthModule,
        LogModule,
        LedgerModule,
        NotificationsModule,
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
