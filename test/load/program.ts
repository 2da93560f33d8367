import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Answer, Told } from './rounds.ts';

const TYPESCRIPT = join(import.meta.dirname, '../jest/typescript.mjs');

/** A program that obeys (rounds.ts), in a process of its own. */
export class Program {
  readonly #child: ChildProcess;
  /** Those who wait for an answer; rounds come one after the other. */
  #waiting: { resolve: (result: unknown) => void; reject: (error: Error) => void } | undefined;

  private constructor(path: string, args: readonly (string | number)[]) {
    this.#child = fork(path, args.map(String), { execArgv: ['--import', TYPESCRIPT] });
    this.#child.on('message', (answer: Answer) => {
      if ('error' in answer) this.#waiting?.reject(new Error(`${path}: ${answer.error}`));
      else this.#waiting?.resolve(answer.result);
    });
    this.#child.on('exit', (code) => this.#waiting?.reject(new Error(`${path} ended with ${String(code)}`)));
  }

  /** Starts the program in the file `path` and waits until it is prepared. */
  static async start(path: string, args: readonly (string | number)[]): Promise<Program> {
    const program = new Program(path, args);
    await program.#answer();
    return program;
  }

  /** A round, from its beginning to its end; some end only after `stop`. */
  async round(): Promise<unknown> {
    const answer = this.#answer();
    this.#tell('round');
    return await answer;
  }

  stop(): void {
    this.#tell('stop');
  }

  async end(): Promise<void> {
    this.#waiting = undefined;
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }

  #tell(told: Told): void {
    this.#child.send(told);
  }

  #answer(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }
}
