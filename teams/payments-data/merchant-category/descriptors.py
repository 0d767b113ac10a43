"""The texts that terminals send of the merchants of each category.

A merchant's name is made of its category and its number alone, so that a merchant is the same one
in every table. Some merchants are shops of a chain. Others belong to an owner: a word of their
trade, a surname or a town, in any order. Terminals join, shorten, cut and mistype names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np


@dataclass(frozen=True, slots=True)
class Trade:
    """The names of a category: of its chains, and the words of a trade that owners use."""

    chains: tuple[str, ...]
    words: tuple[str, ...]


def _trade(chains: str, words: str) -> Trade:
    return Trade(tuple(chains.split(", ")), tuple(words.split(", ")))


TRADES: Final[dict[str, Trade]] = {
    "groceries": _trade(
        "NORDKAUF, FRISCHO, TAGESMARKT, PLUSINO, BIOLADEN GRUEN",
        "SUPERMARKET, MARKT, BAKERY, BAECKEREI, METZGEREI, GROCERY, DELI, FOOD STORE, ALIMENTARI",
    ),
    "restaurants": _trade(
        "BURGERIA, PASTAMORE, COFFEE CORNER, SUSHI GO ROUND, NORDSTERN",
        "RESTAURANT, PIZZERIA, CAFE, GASTHAUS, BISTRO, GRILL, BAR, KITCHEN, TRATTORIA",
    ),
    "fuel": _trade(
        "VELORA, PETRAX, AUTOHOF NORD, NORDKAUF, OILINE",
        "TANKSTELLE, FUEL, SERVICE STATION, PETROL, GAS STATION, TANK",
    ),
    "public_transport": _trade(
        "STADTVERKEHR, METROLINE, REGIOBAHN, TRAMWAY PLUS, CITYBUS",
        "VERKEHRSBETRIEBE, BUS, TRAM, METRO STATION, TICKETS, TRANSIT, FERRY",
    ),
    "taxi": _trade(
        "RIDEO, CABNOW, HALLOTAXI, MOVIT, AIRPORT CAB",
        "TAXI, CAB, FUNKTAXI, TAXI SERVICE, LIMOUSINE, SHUTTLE",
    ),
    "travel": _trade(
        "AEROVIA, SKYHOP, REGIOBAHN, FERNREISEN, TRIPANDO",
        "TRAVEL, REISEBUERO, TOURS, AIRLINES, CRUISES, CAR RENTAL, REISEN",
    ),
    "lodging": _trade(
        "BELLEVUE, SLEEPWELL, NORDSTERN, ROOMIO, TRIPANDO",
        "HOTEL, PENSION, HOSTEL, GASTHAUS, APARTMENTS, CAMPING, RESORT",
    ),
    "clothing": _trade(
        "MODENA, TEXTILIO, SCHUHWELT, URBANFIT, KIDS AND CO",
        "FASHION, BOUTIQUE, SHOES, MODE, JEANS, CLOTHING, SCHUHE",
    ),
    "electronics": _trade(
        "ELEKTRA, MEGABYTE, PHONEHOUSE, TECHMARKT, DIGITALO",
        "ELECTRONICS, COMPUTER, HIFI, MEDIA, PHOTO, REPAIR, MARKT",
    ),
    "furniture": _trade(
        "MOEBELHOF, WOHNIDEE, HOMELINE, BAUPARADIES, LAMPENWELT",
        "MOEBEL, FURNITURE, INTERIORS, KITCHEN, CARPETS, LIVING, ANTIQUES",
    ),
    "pharmacy": _trade(
        "VITALIS, DROGERIA, PHARMAPLUS, ROSEN, MEDICUM",
        "APOTHEKE, PHARMACY, PHARMACIE, DROGERIE, FARMACIA, CHEMIST",
    ),
    "health": _trade(
        "MEDICUM, DENTIX, OPTIKA, PHYSIOTOP, LABOR NORD",
        "PRAXIS, DENTAL, CLINIC, OPTIK, PHYSIO, DR MED, ZAHNARZT, THERAPY",
    ),
    "education": _trade(
        "LINGUA PLUS, KITA STERNE, CAMPUSONE, FAHRSCHULE GO, SKILLIO",
        "SCHOOL, UNIVERSITY, ACADEMY, COURSES, KINDERGARTEN, FAHRSCHULE, BOOKS",
    ),
    "insurance": _trade(
        "ALLSECURA, NORDIA, PROTECTIS, SAFEDRIVE, VITALIS",
        "INSURANCE, VERSICHERUNG, ASSURANCE, LIFE, BROKER",
    ),
    "utilities": _trade(
        "STADTWERKE, ENERGICA, AQUALIS, NORDIA, POWERGREEN",
        "ENERGY, WATER, STROM, GAS, WASTE, HEATING",
    ),
    "telecom": _trade(
        "TELORA, FONIO, NETCONNECT, PHONEHOUSE, GIGALINE",
        "MOBILE, TELECOM, INTERNET, FIBER, PREPAID, PHONE",
    ),
    "entertainment": _trade(
        "STREAMORA, CINEMAX NORD, PLAYBOX, TICKETINO, SONGIFY",
        "CINEMA, THEATER, MUSEUM, GAMES, CLUB, TICKETS, ZOO, KINO",
    ),
    "sports": _trade(
        "URBANFIT, SPORTARENA, GYMNASIO, BIKEPOINT, ALPIN STORE",
        "FITNESS, GYM, SPORT, BIKES, YOGA, GOLF, CLUB, SKI",
    ),
    "cash": _trade(
        "SPARKASSE, VOLKSBANK, CASHPOINT, EUROBANK, GELDPUNKT",
        "ATM, GELDAUTOMAT, BANKOMAT, CASH WITHDRAWAL, BANK",
    ),
    "other": _trade(
        "BUNDESAMT, POSTAL PLUS, SPENDENWERK, FLORISTA, REINIGO",
        "SERVICE, STORE, FLOWERS, CLEANING, PARKING, OFFICE, HAIR, FRISEUR, POST",
    ),
}
"""Some names stand in two categories, as one brand may sell fuel and food."""
CATEGORIES: Final = tuple(TRADES)

OWNERS: Final = (
    *("MUELLER", "SCHMIDT", "WEBER", "WAGNER", "BECKER", "HOFFMANN", "KOCH", "BAUER", "RICHTER"),
    *("KLEIN", "WOLF", "NEUMANN", "SCHWARZ", "BRAUN", "KRUEGER", "ROSSI", "BIANCHI", "FERRARI"),
    *("ROMANO", "MARTIN", "BERNARD", "DUBOIS", "LAURENT", "GARCIA", "LOPEZ", "SANCHEZ", "NOWAK"),
    *("KOWALSKI", "YILMAZ", "KAYA", "DEMIR", "SINGH", "NGUYEN", "CHEN", "SILVA", "COSTA", "LIND"),
    *("HANSEN", "JENSEN", "VISSER", "PETERS", "OBRIEN", "SMITH", "TAYLOR", "EVANS", "WOOD"),
)
TOWNS: Final = (
    *("BERLIN", "HAMBURG", "MUENCHEN", "KOELN", "FRANKFURT", "STUTTGART", "LEIPZIG", "DRESDEN"),
    *("BREMEN", "HANNOVER", "WIEN", "GRAZ", "SALZBURG", "ZUERICH", "BASEL", "PARIS", "LYON"),
    *("MILANO", "ROMA", "MADRID", "LISBOA", "PORTO", "AMSTERDAM", "ROTTERDAM", "BRUXELLES"),
    *("DUBLIN", "LONDON", "PRAHA", "WARSZAWA", "OSLO", "STOCKHOLM", "HELSINKI"),
)
FANCY: Final = (
    *("SUNNY", "CENTRAL", "ROYAL", "BLUE", "GOLDEN", "CITY", "EURO", "ALPHA", "NOVA", "PRIMA"),
    *("STAR", "PARK", "LINDEN", "ADLER", "KRONE", "SOL", "LUNA", "VERDE", "TOP", "EXPRESS"),
)
FORMS: Final = ("GMBH", "KG", "SARL", "SRL", "LTD", "E.K.", "INH.", "OHG")
PREFIXES: Final = ("PYLK *", "ZT *", "SQR *", "SUP  *", "EC ", "POS ", "KARTE ", "TPE ")
"""Of terminals and of intermediaries that name the merchant."""
WIDTHS: Final = (16, 20, 22, 25)
"""Most characters of a name, by terminal."""

SHOPS: Final = 120
"""Of a chain."""
OF_NO_TRADE: Final = 0.12
"""Share of owners whose merchant's name has no word of a trade."""
ABBREVIATED: Final = 0.12
MISTYPED: Final = 0.06
JOINED: Final = 0.08
PREFIXED: Final = 0.25


@lru_cache(maxsize=200_000)
def shop(category: str, number: int) -> str:
    """A shop of one of the category's chains, as its terminal names it."""
    trade = TRADES[category]
    chain, place = trade.chains[number // SHOPS % len(trade.chains)], number % SHOPS
    random = _random(category, number)
    parts = [chain]
    if random.random() < 0.35:
        parts.append(_one(trade.words, random))
    mark = (f"{place:04d}", f"#{place}", f"FIL {place:03d}", _one(TOWNS, random), "SAGT DANKE")
    parts.append(_one(mark, random))
    if random.random() < 0.5:
        parts.append(_one(TOWNS, random))
    return _sent(parts, random)


@lru_cache(maxsize=200_000)
def owned(category: str, number: int) -> str:
    """A merchant with an owner, as its terminal names it."""
    random = _random(category, -1 - number)
    name = [_one(OWNERS, random) if random.random() < 0.6 else _one(FANCY, random)]
    if random.random() < OF_NO_TRADE:
        name.append(_one(FORMS, random))
    else:
        word = _one(TRADES[category].words, random)
        if random.random() < ABBREVIATED:
            word = _abbreviated(word, random)
        name.insert(int(random.random() < 0.4), word)
    if random.random() < 0.4:
        name.append(_one(TOWNS, random))
    return _sent(name, random)


@lru_cache(maxsize=10_000)
def online_shop(category: str, number: int) -> str:
    """A shop on the internet, whose made-up name tells nothing until it has been learned."""
    random = _random(category, 1_000_000 + number)
    syllables = ("ZA", "VO", "MI", "LU", "KE", "RO", "BI", "TA", "NE", "XO", "PI", "DA", "WU", "JO")
    name = "".join(_one(syllables, random) for _ in range(3 + int(random.random() < 0.5)))
    return f"{name}{_one(('.COM', '.EU', ' ONLINE', '*WEB', '.SHOP'), random)}"


def _random(category: str, number: int) -> np.random.Generator:
    return np.random.default_rng([CATEGORIES.index(category), number + 2_000_000])


def _one(words: Sequence[str], random: np.random.Generator) -> str:
    return words[int(random.random() * len(words))]


def _abbreviated(word: str, random: np.random.Generator) -> str:
    """A word without its later vowels, or its beginning with a dot."""
    if random.random() < 0.5:
        return word[:1] + "".join(letter for letter in word[1:] if letter not in "AEIOU")
    return f"{word[: 4 + int(random.random() * 2)]}."


def _sent(parts: Sequence[str], random: np.random.Generator) -> str:
    """The parts as one text, as a terminal with its width and its faults sends it."""
    text = ("" if random.random() < JOINED else " ").join(parts)
    if random.random() < MISTYPED:
        at = int(random.random() * (len(text) - 1))
        swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        text = swapped if random.random() < 0.5 else text[:at] + text[at + 1 :]
    prefix = _one(PREFIXES, random) if random.random() < PREFIXED else ""
    return (prefix + text)[: WIDTHS[int(random.random() * len(WIDTHS))]].strip()
