import { Logger } from 'nestjs-pino';

/** Nest announces every module and every route when it starts: forty lines that say what the code says. */
const STARTING = new Set(['NestFactory', 'InstanceLoader', 'RoutesResolver', 'RouterExplorer']);

/** What Nest logs through: pino, with the announcements of the start at debug level. */
export class ServiceLogger extends Logger {
  override log(message: unknown, ...rest: unknown[]): void {
    const context = rest.at(-1);
    if (typeof context === 'string' && STARTING.has(context)) super.debug(message, ...rest);
    else super.log(message, ...rest);
  }
}
