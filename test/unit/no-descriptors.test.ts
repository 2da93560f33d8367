import { expect, test } from '@jest/globals';
import { isNeverSent } from '../../src/postgres/errors.ts';
import { toProblem } from '../../src/http/problem.filter.ts';

test.each(['EMFILE', 'ENFILE'])(
  'a node that has no descriptor left for a connection to the database (%s) says that it is overloaded',
  (code) => {
    const error = Object.assign(new Error(`connect ${code} 127.0.0.1:5432`), { code, syscall: 'connect' });
    expect(toProblem(error, 'r')).toMatchObject({
      status: 503,
      code: 'overloaded',
      headers: { 'retry-after': '1' },
    });
    // So that a publish is tried again, and nobody looks for what became of it.
    expect(isNeverSent(error)).toBe(true);
  },
);
