import { Injectable } from '@nestjs/common';

/** Whether this node is on its way out: it begins nothing new and finishes what it has. There is no way back. */
@Injectable()
export class Draining {
  #active = false;

  get active(): boolean {
    return this.#active;
  }

  begin(): void {
    this.#active = true;
  }
}
