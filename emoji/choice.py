"""What people decided about the set, as data: which groups are in, which labels come first and which are left out."""

# emojibase's numbers. Not here: components, symbols (rows of equal squares, arrows, signs, letters) and flags.
GROUPS = {
    0: "smileys",
    1: "people",
    3: "animals and nature",
    4: "food and drink",
    5: "travel and places",
    6: "activities",
    7: "objects",
}

# Of the people only these: the rest are the same head and shoulders in other clothes.
PEOPLE = (
    *("brain", "anatomical heart", "lungs", "tooth", "bone", "eyes", "eye", "tongue", "mouth", "ear", "nose", "foot"),
    *("thumbs up", "OK hand", "victory hand", "raised fist", "handshake", "flexed biceps", "mechanical arm"),
    *("astronaut", "firefighter", "detective", "guard", "ninja", "Santa Claus", "genie", "zombie"),
)

# Of two pictures that are too close the one that comes first stays: these are the ones that people ask for.
FIRST = (
    *("grinning face", "smiling face with heart-eyes", "face with tears of joy", "smiling face with sunglasses"),
    *("thinking face", "sleeping face", "crying face", "angry face", "winking face", "robot", "ghost", "skull"),
    *("cat face", "dog face", "cat", "dog", "horse", "unicorn", "lion", "elephant", "penguin", "octopus"),
    *("rabbit face", "bear", "fox", "fish", "butterfly"),
    *("red apple", "green apple", "tangerine", "lemon", "strawberry", "pizza", "hamburger", "hot beverage", "doughnut"),
    *("red heart", "yellow heart", "blue heart", "green heart", "purple heart", "orange heart", "black heart"),
    *("house", "castle", "automobile", "bus", "taxi", "bicycle", "train", "locomotive", "airplane", "rocket", "ship"),
    *("full moon", "sun", "star", "rainbow", "fire", "deciduous tree", "rose", "sunflower", "mushroom", "umbrella"),
    *("guitar", "soccer ball", "basketball", "balloon", "wrapped gift", "crown", "key", "light bulb", "open book"),
)

# Why, and which: looked at one by one on the contact sheet.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "same thing as another, seen from elsewhere or with a detail that is lost at 128 pixels": (
        *("guide dog", "service dog", "black cat", "two-hump camel", "front-facing baby chick", "spouting whale"),
        *("water buffalo", "ram", "rat", "fork and knife", "sport utility vehicle", "minibus", "trolleybus"),
        *("light rail", "high-speed train", "bullet train", "tram car", "metro", "station", "suspension railway"),
        *("mountain cableway", "mountain railway", "passenger ship", "ferry", "motor boat", "airplane departure"),
        *("airplane arrival", "snow-capped mountain", "mount fuji", "houses", "derelict house", "house with garden"),
        *("Japanese post office", "post office", "hotel", "love hotel", "department store", "convenience store"),
        *("globe showing Americas", "globe showing Asia-Australia", "hourglass done", "sun behind small cloud"),
        *("sun behind large cloud", "sun behind rain cloud", "cloud with lightning", "umbrella with rain drops"),
        *("umbrella on ground", "closed umbrella", "snowman without snow", "glowing star", "sports medal"),
        *("2nd place medal", "3rd place medal", "ticket", "heart suit", "tear-off calendar", "spiral calendar"),
        *("open file folder", "notebook", "notebook with decorative cover", "old key", "unlocked", "locked with pen"),
        *("locked with key", "low battery", "mobile phone with arrow", "camera with flash", "envelope with arrow"),
        *("incoming envelope", "e-mail", "magnifying glass tilted right", "bell with slash", "muted speaker"),
        *("speaker low volume", "speaker medium volume", "musical notes", "dvd", "computer disk", "yen banknote"),
        *("euro banknote", "pound banknote", "closed mailbox with lowered flag", "open mailbox with raised flag"),
        *("open mailbox with lowered flag", "page facing up", "outbox tray", "hammer and pick", "round pushpin"),
        *("light blue heart", "grey heart", "heart decoration", "left speech bubble", "right anger bubble"),
        *("new moon face", "first quarter moon face", "last quarter moon face", "full moon face", "empty nest"),
        *("clinking beer mugs", "woman’s clothes", "microphone", "video camera", "film projector", "linked paperclips"),
    ),
    "hard to tell what it is, even for a person": (
        *("dotted line face", "shaking face", "anger symbol", "hundred points", "ZZZ", "hole", "eye in speech bubble"),
        *("dashing away", "heart exclamation", "dizzy", "hair pick", "level slider", "control knobs", "trackball"),
        *("pager", "fax machine", "card file box", "card index", "card index dividers", "ledger", "bookmark tabs"),
        *("receipt", "clamp", "nut and bolt", "white cane", "crutch", "link", "hook", "straight ruler", "chains"),
        *("triangular ruler", "placard", "petri dish", "alembic", "mouse trap", "postal horn", "inbox tray"),
        *("ballot box with ballot", "wastebasket", "tamale", "stuffed flatbread", "fish cake with swirl", "rosette"),
        *("pine decoration", "tanabata tree", "wind chime", "flower playing cards", "mahjong red dragon", "joker"),
        *("map of Japan", "flatbread", "pouring liquid", "lacrosse", "knot", "prayer beads", "funeral urn", "mate"),
        *("paperclip", "identification card", "oden", "microbe", "falafel", "admission tickets"),
        *("white flower", "hot springs", "lab coat", "sari", "film frames", "fog", "rock", "tumbler glass", "sake"),
    ),
    "not for a first picture": ("cigarette", "middle finger", "face with symbols on mouth"),
}

# Rows of almost equal pictures, by a part of their label.
LEFT_OUT_PARTS = ("o’clock", "-thirty", "oncoming", "crescent moon", "quarter moon", "gibbous moon", "new moon")
