import { describe, expect, test } from '@jest/globals';
import { comesFromPage, mayUseCookie } from '../../src/auth/credentials.ts';

const LISTED = 'https://app.example';
const allows = (origin: string) => origin === LISTED;

describe('the session cookie', () => {
  test.each<[string, Record<string, string>]>([
    ['a page of this origin', { 'sec-fetch-site': 'same-origin' }],
    ['a page of this origin that hides its own', { 'sec-fetch-site': 'same-origin', origin: 'null' }],
    ['a listed page of another site', { 'sec-fetch-site': 'cross-site', origin: LISTED }],
    ['a listed page of another host of this site', { 'sec-fetch-site': 'same-site', origin: LISTED }],
    ['a listed page in a browser without Fetch Metadata', { origin: LISTED }],
  ])('does for %s', (_, headers) => {
    expect(mayUseCookie(headers, allows)).toBe(true);
  });

  test.each<[string, Record<string, string>]>([
    ['what says nothing of where it comes from', {}],
    ['a person at the address bar', { 'sec-fetch-site': 'none' }],
    ['a page of another site that does not say which', { 'sec-fetch-site': 'cross-site' }],
    ['a page of another host of this site', { 'sec-fetch-site': 'same-site' }],
    ['an unlisted page', { 'sec-fetch-site': 'cross-site', origin: 'https://evil.example' }],
    ['an unlisted page in a browser without Fetch Metadata', { origin: 'https://evil.example' }],
    ['a sandboxed page', { 'sec-fetch-site': 'cross-site', origin: 'null' }],
    ['an origin that only begins like a listed one', { origin: `${LISTED}.evil.example` }],
    ['a listed origin in other letters', { origin: 'https://APP.example' }],
    ['a listed origin of http', { origin: 'http://app.example' }],
    ['a doubled Origin', { origin: `${LISTED}, https://evil.example` }],
    ['a doubled Sec-Fetch-Site', { 'sec-fetch-site': 'same-origin, cross-site' }],
    ['a word that no browser says', { 'sec-fetch-site': 'Same-Origin' }],
  ])('does not do for %s', (_, headers) => {
    expect(mayUseCookie(headers, allows)).toBe(false);
  });

  test('never does for the origin `null`, whatever the list says', () => {
    expect(mayUseCookie({ origin: 'null' }, () => true)).toBe(false);
  });
});

test('a request comes from a page if it says where it comes from', () => {
  expect(comesFromPage({})).toBe(false);
  expect(comesFromPage({ origin: 'null' })).toBe(true);
  expect(comesFromPage({ 'sec-fetch-site': 'none' })).toBe(true);
});
