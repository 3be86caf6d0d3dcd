"""Names of structures of the abdomen and pelvis in four languages, with SNOMED CT codes."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "liver": "hepar; Leber; foie; hígado; 10200004",
    "liver tumor": (
        "liver tumour; liver cancer; liver lesion; hepatic tumor; Lebertumor; Leberkrebs; tumeur du "
        "foie; tumeur hépatique; tumor hepático; tumor de hígado"
    ),
    "hepatic vessels": (
        "hepatic vessel; liver vessels; Lebergefäße; Lebergefässe; vaisseaux hépatiques; vasos hepáticos"
    ),
    "spleen": "lien; Milz; rate; bazo; 78961009",
    "pancreas": "Bauchspeicheldrüse; Pankreas; pancréas; páncreas; 15776009",
    "pancreas tumor": (
        "pancreatic tumor; pancreatic cancer; pancreas cancer; Pankreastumor; Pankreaskarzinom; tumeur "
        "du pancréas; tumor de páncreas; tumor pancreático"
    ),
    "kidney": "ren; Niere; Nieren; rein; reins; riñón; riñones; 64033007",
    "left kidney": "18639004",
    "right kidney": "9846003",
    "kidney tumor": (
        "renal tumor; kidney cancer; renal mass; Nierentumor; Nierenkrebs; tumeur du rein; tumeur "
        "rénale; tumor renal; tumor de riñón"
    ),
    "kidney cyst": "renal cyst; Nierenzyste; Nierenzysten; kyste rénal; kyste du rein; quiste renal",
    "adrenal gland": (
        "adrenal; suprarenal gland; Glnd_Adrenal; Nebenniere; Nebennieren; glande surrénale; surrénale; "
        "glándula suprarrenal; suprarrenal; 23451007"
    ),
    "stomach": "gaster; Magen; estomac; estómago; 69695003",
    "duodenum": "Bowel_Duodenum; Zwölffingerdarm; Duodenum; duodénum; duodeno; 38848004",
    "small bowel": (
        "small intestine; Bowel_Small; Dünndarm; intestin grêle; grêle; intestino delgado; 30315005"
    ),
    "colon": (
        "large bowel; large intestine; Bowel_Large; Dickdarm; Kolon; côlon; gros intestin; intestino "
        "grueso; 71854001"
    ),
    "colon tumor": (
        "colon cancer; colon cancer primaries; Kolontumor; Kolonkarzinom; Dickdarmtumor; Dickdarmkrebs; "
        "tumeur du côlon; cancer du côlon; tumor de colon; cáncer de colon"
    ),
    "intestine": "bowel; gut; Darm; intestin; intestino",
    "rectum": "Enddarm; Mastdarm; Rektum; recto; 34402009",
    "gallbladder": "gall bladder; vesica fellea; Gallenblase; vésicule biliaire; vesícula biliar; 28231008",
    "urinary bladder": (
        "bladder; vesica urinaria; Harnblase; Blase; vessie; vejiga; vejiga urinaria; 89837001"
    ),
    "prostate": "prostate gland; Prostata; Vorsteherdrüse; próstata; 41216001",
    "prostate or uterus": (
        "prostate/uterus; prostate uterus; Prostata oder Uterus; prostate ou utérus; próstata o útero"
    ),
    "portal and splenic veins": (
        "portal vein and splenic vein; portal vein splenic vein; Pfortader und Milzvene; veine porte et "
        "veine splénique; vena porta y vena esplénica; 110765007"
    ),
    "iliac artery": (
        "common iliac artery; A_Iliac; arteria iliaca; arteria iliaca communis; Beckenarterie; artère "
        "iliaque; 73634005"
    ),
    "iliac vein": (
        "common iliac vein; iliac vena; V_Iliac; vena iliaca; Beckenvene; veine iliaque; 46027005"
    ),
}
"""Per structure: aliases separated by semicolons; numbers are SNOMED CT codes. Names may contain a side."""
