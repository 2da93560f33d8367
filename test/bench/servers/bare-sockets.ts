import { createServer, type Socket } from 'node:net';

/*
 * The least that fan-out can cost in Node: what is published is written to all sockets as it is. It reads as much HTTP as it
 * needs to, and a request has to come in one piece.
 */

const subscribers = new Set<Socket>();

createServer((socket) => {
  socket.on('error', () => undefined);
  socket.on('data', (request) => {
    if (request.subarray(0, 4).toString('latin1') === 'GET ') {
      subscribers.add(socket);
      socket.on('close', () => subscribers.delete(socket));
      socket.write('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n');
      return;
    }
    const frame = Buffer.concat([
      Buffer.from('data: '),
      request.subarray(request.indexOf('\r\n\r\n') + 4),
      Buffer.from('\n\n'),
    ]);
    for (const subscriber of subscribers) subscriber.write(frame);
    socket.write('HTTP/1.1 204 No Content\r\n\r\n');
  });
}).listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 4_096 });
