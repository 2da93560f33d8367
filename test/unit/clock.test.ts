import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { DatabaseClock } from '../../src/postgres/clock.ts';

const NOW = 1_000_000;
beforeEach(() => {
  jest.spyOn(Date, 'now').mockReturnValue(NOW);
});
afterEach(() => {
  jest.restoreAllMocks();
});

test("is this machine's clock until the database has answered", () => {
  expect(new DatabaseClock().now()).toBe(NOW);
});

test('goes by the fastest of the last ten answers, and so is never late', () => {
  const clock = new DatabaseClock();
  for (const ahead of [70, 30, 50]) clock.observe(NOW, NOW + ahead);
  expect(clock.now()).toBe(NOW + 30);
  for (let n = 0; n < 9; n += 1) clock.observe(NOW, NOW + 60);
  expect(clock.now()).toBe(NOW + 50);
  clock.observe(NOW, NOW + 60);
  expect(clock.now()).toBe(NOW + 60);
});

test('follows a database whose clock is behind', () => {
  const clock = new DatabaseClock();
  clock.observe(NOW, NOW - 5_000);
  expect(clock.now()).toBe(NOW - 5_000);
});
