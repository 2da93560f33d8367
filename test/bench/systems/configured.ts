import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { ownPort } from '../../support/own-port.ts';
import { launch } from './launch.ts';
import type { Running } from './system.ts';

/** What a server is started with. */
interface Setup {
  /** Its configuration: a file in its folder, and what stands in it. */
  readonly file: string;
  readonly text: string;
  readonly args: readonly string[];
}

/**
 * Starts a server of another make with a folder and a port of its own. The folder is its home, and goes when it is stopped.
 * What the environment says of servers, such as one that is given by URL, is not for this one.
 */
export async function launchConfigured(
  program: string,
  setup: (home: string, port: number) => Setup,
): Promise<Running> {
  const home = await mkdtemp(join(tmpdir(), `tidings-bench-${basename(program)}-`));
  const remove = () => rm(home, { recursive: true, force: true });
  try {
    const port = await ownPort();
    const { file, text, args } = setup(home, port);
    await writeFile(join(home, file), text);
    const server = await launch(program, args, port, { PATH: process.env['PATH'], HOME: home });
    return {
      ...server,
      async stop() {
        await server.stop();
        await remove();
      },
    };
  } catch (error) {
    await remove();
    throw error;
  }
}
