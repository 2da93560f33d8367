"""Reads a stream by one of the usual HTTP clients of Python and prints every line when that client gives it out.

readers.py <library> <url> <token>
"""

import asyncio
import sys


def with_requests(url, headers):
    import requests

    for line in requests.get(url, headers=headers, stream=True).iter_lines():
        yield line.decode()


def with_httpx(url, headers):
    import httpx

    with httpx.stream("GET", url, headers=headers, timeout=None) as response:
        yield from response.iter_lines()


def with_urllib(url, headers):
    from urllib.request import Request, urlopen

    for line in urlopen(Request(url, headers=headers)):
        yield line.decode().rstrip("\n")


async def with_aiohttp(url, headers, say):
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        async with session.get(url, headers=headers) as response:
            async for line in response.content:
                say(line.decode().rstrip("\n"))


async def with_tornado(url, headers, say):
    from tornado.httpclient import AsyncHTTPClient, HTTPRequest

    request = HTTPRequest(
        url, headers=headers, request_timeout=0, streaming_callback=lambda part: say(part.decode())
    )
    await AsyncHTTPClient().fetch(request)


def say(text):
    print(text, flush=True)


library, url, token = sys.argv[1:]
headers = {"Authorization": f"Bearer {token}"}
if library in ("aiohttp", "tornado"):
    read = {"aiohttp": with_aiohttp, "tornado": with_tornado}[library]
    asyncio.run(read(url, headers, say))
else:
    read = {"requests": with_requests, "httpx": with_httpx, "urllib": with_urllib}[library]
    for line in read(url, headers):
        say(line)
