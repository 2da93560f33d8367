import 'reflect-metadata';
import { EventEmitter } from 'node:events';
import { Body, Controller, HttpCode, Module, Param, Post, Sse, type MessageEvent } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { filter, fromEvent, map, type Observable } from 'rxjs';

/*
 * What tutorials show for notifications in Nest: `@Sse()`, an EventEmitter and `map`. The user is in the URL, nothing is
 * stored, and nobody knows what arrived.
 */

interface Message {
  readonly user?: string;
  readonly data: object;
}

const events = new EventEmitter().setMaxListeners(0);

@Controller()
class NotificationsController {
  @Sse('subscribe/:user')
  subscribe(@Param('user') user: string): Observable<MessageEvent> {
    return fromEvent(events, 'message').pipe(
      map((message) => message as Message),
      filter(({ user: to }) => to === undefined || to === user),
      map(({ data }) => ({ data })),
    );
  }

  @Post('publish')
  @HttpCode(201)
  publish(@Body() message: Message): void {
    events.emit('message', message);
  }
}

@Module({ controllers: [NotificationsController] })
class TutorialModule {}

const app = await NestFactory.create(TutorialModule, new ExpressAdapter(), { logger: ['error'] });
await app.listen(Number(process.argv[2]), '127.0.0.1');
