import { Body, Controller, Get, Global, Module, Post, type DynamicModule } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { CurrentPrincipal, type Principal, Public, RequireScope, UserOnly } from '../../src/http/access.ts';
import { Cors } from '../../src/auth/cors.ts';
import { TokenGuard, AuthModule } from '../../src/auth/token.guard.ts';
import { CONFIG, readConfig, type Config } from '../../src/core/config.ts';
import { DatabaseModule } from '../../src/postgres/database.module.ts';
import { ProblemFilter } from '../../src/http/problems.ts';
import { MetricsModule } from '../../src/telemetry/metrics-endpoint.ts';
import { createDatabase, settingsOf, type DatabasePlace } from './database.ts';
import { TEST_SECRET } from './tokens.ts';

/** What the guarded routes answer: who the service thinks is calling. */
export interface Caller {
  tenant: string;
  subject: string;
  topics: string[];
  device: string | null;
}

const callerOf = ({ tenantId, subject, topics, device }: Principal): Caller => ({
  tenant: tenantId,
  subject,
  topics: [...topics],
  device: device ?? null,
});

/** One route of each kind, and nothing behind them. */
@Controller()
export class GuardedController {
  @Get('public')
  @Public()
  open(): string {
    return 'open';
  }

  @Post('publish')
  @RequireScope('notifications:publish')
  publish(@CurrentPrincipal() principal: Principal): Caller {
    return callerOf(principal);
  }

  @Get('lookup')
  @RequireScope('notifications:publish', 'history:read')
  lookup(@CurrentPrincipal() principal: Principal): Caller {
    return callerOf(principal);
  }

  @Get('stream')
  @UserOnly({ clockTolerance: false })
  stream(@CurrentPrincipal() principal: Principal): Caller {
    return callerOf(principal);
  }

  @Post('acks')
  @UserOnly()
  acknowledge(@CurrentPrincipal() principal: Principal, @Body() _body: unknown): Caller {
    return callerOf(principal);
  }
}

@Global()
@Module({})
class ConfigModule {}

const configured = (config: Config): DynamicModule => ({
  module: ConfigModule,
  providers: [{ provide: CONFIG, useValue: config }],
  exports: [CONFIG],
});

@Module({})
class GuardedModule {}

export interface GuardedApp {
  readonly url: string;
  readonly app: NestFastifyApplication;
  close(): Promise<void>;
}

/** The guard in an application with nothing behind it: for what can be seen before any handler runs. */
export async function startGuarded(
  settings: Record<string, string> = { JWT_SECRET: TEST_SECRET },
  controllers: DynamicModule['controllers'] = [GuardedController],
): Promise<GuardedApp> {
  const database = await createDatabase();
  try {
    const app = await listenGuarded(database, settings, controllers);
    const close = async () => {
      await app.close();
      await database.drop();
    };
    return { url: await app.getUrl(), app, close };
  } catch (error) {
    await database.drop();
    throw error;
  }
}

/** The same, on a database that is there already. */
export async function listenGuarded(
  database: DatabasePlace,
  settings: Record<string, string>,
  controllers: DynamicModule['controllers'] = [GuardedController],
  port = 0,
): Promise<NestFastifyApplication> {
  const config = readConfig({ CORS_ORIGINS: 'https://app.example', ...settings, ...settingsOf(database) });
  const root: DynamicModule = {
    module: GuardedModule,
    imports: [configured(config), MetricsModule, DatabaseModule, AuthModule],
    controllers: controllers ?? [],
  };
  const app = await NestFactory.create<NestFastifyApplication>(root, new FastifyAdapter(), {
    logger: false,
    abortOnError: false,
  });
  app.useGlobalFilters(new ProblemFilter());
  // Of src/app/pipeline.ts what concerns callers.
  const fastify = app.getHttpAdapter().getInstance();
  const [cors, guard] = [app.get(Cors), app.get(TokenGuard)];
  fastify.addHook('onRequest', (request, reply, done) => {
    if (!cors.answersPreflight(request, reply)) done();
  });
  fastify.addHook('preParsing', async (request, reply) => await guard.beforeBody(request, reply));
  try {
    await app.listen(port, '127.0.0.1');
  } catch (error) {
    // What has begun by then would go on in the files that this worker runs next.
    await app.close();
    throw error;
  }
  return app;
}
