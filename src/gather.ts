/**
 * Serves many askers with one call: while a call is under way the next collects, without timers. A lone asker waits
 * for nobody, a crowd shares a round trip.
 */
export class Gather<Ask, Answer> {
  #waiting: { ask: Ask; resolve: (answer: Answer) => void; reject: (error: unknown) => void }[] = [];
  #serving = false;

  /** `serve` answers every ask, in their order. */
  constructor(
    private readonly serve: (asks: readonly Ask[]) => Promise<readonly Answer[]>,
    private readonly atOnce: number,
  ) {}

  /** True when nobody waits and nothing is under way. */
  get idle(): boolean {
    return !this.#serving;
  }

  async ask(ask: Ask): Promise<Answer> {
    return await new Promise<Answer>((resolve, reject) => {
      this.#waiting.push({ ask, resolve, reject });
      if (this.#serving) return;
      this.#serving = true;
      // What arrives in the same turn of the event loop goes out together.
      setImmediate(() => void this.#run());
    });
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const round = this.#waiting.splice(0, this.atOnce);
      try {
        const answers = await this.serve(round.map(({ ask }) => ask));
        round.forEach(({ resolve, reject }, index) => {
          const answer = answers[index];
          if (answer === undefined) reject(new Error(`ask ${index} of ${round.length} was not answered`));
          else resolve(answer);
        });
      } catch (error) {
        for (const { reject } of round) reject(error);
      }
    }
    this.#serving = false;
  }
}
