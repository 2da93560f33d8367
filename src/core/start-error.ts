/** Why the service cannot start, in words for the operator, who needs no stack. */
export class StartError extends Error {
  override readonly name: string = 'StartError';
}
