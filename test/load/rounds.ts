import { constants, setPriority } from 'node:os';

/** What the parent process tells a program of this folder. */
export type Told = 'round' | 'stop';

/** What it is answered, when it was prepared and at the end of each round. */
export type Answer = { readonly result: unknown } | { readonly error: string };

interface Work {
  /** Before the first round. */
  readonly prepare?: () => Promise<void>;
  /** One round, until `stopped` says so, or as long as it takes. */
  readonly round: (stopped: AbortSignal) => Promise<unknown>;
}

/** Obeys the parent until it is gone. */
export async function obey({ prepare, round }: Work): Promise<void> {
  let stop = new AbortController();
  const answer = (said: Answer) => process.send?.(said);
  const attempt = (work: Promise<unknown> | undefined) =>
    Promise.resolve(work).then(
      (result) => answer({ result }),
      (error: unknown) => answer({ error: error instanceof Error ? error.message : String(error) }),
    );
  process.on('disconnect', () => process.exit());
  process.on('message', (told: Told) => {
    if (told === 'stop') {
      stop.abort();
      return;
    }
    stop = new AbortController();
    void attempt(round(stop.signal));
  });
  await attempt(prepare?.());
}

/** For the tenant that floods: it stands for machines of its own, and must not take the processors of those that are measured. */
export const giveWay = (): void => setPriority(constants.priority.PRIORITY_LOW);
